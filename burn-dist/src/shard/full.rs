//! The whole model again, gathered unit by unit.

use super::flat::{Piece, Shared};
use super::primitive::Primitive;
use super::sharded::{Identity, Visit, walk};
use super::sharding::Sharding;
use crate::error::{Error, Result};
use crate::layout::UnitLayout;
use crate::unwind::catch_raised;
use crate::world::World;
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who receives the whole model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Rank 0 alone; no other rank holds more than the root and one unit.
    Chief,
    /// Every rank.
    All,
}

thread_local! {
    static EXPORT: RefCell<Option<Export>> = const { RefCell::new(None) };
}

/// An export that is going on in this thread.
struct Export {
    destination: Destination,
    pieces: BTreeMap<usize, Vec<Piece>>,
    /// Gathered units and how many of their parameters are still to be taken.
    gathered: BTreeMap<usize, (Shared, usize)>,
}

impl World {
    /// Gathers a sharded model into a plain Burn module, which saves and loads as any other.
    ///
    /// Collective: every rank calls it. Returns `None` on the ranks that receive nothing.
    ///
    /// # Cost
    /// One all-gather per unit. A rank that receives nothing holds the root and one unit at a time.
    ///
    /// # Errors
    /// [`Error::Model`] if `model` was not sharded; what collectives return.
    pub fn full<M: Module>(&self, model: &M, to: Destination) -> Result<Option<M>> {
        let Apart {
            sharding, pieces, ..
        } = Apart::of(model)?;
        let export = Export {
            destination: to,
            pieces,
            gathered: BTreeMap::new(),
        };
        EXPORT.set(Some(export));
        let whole = catch_raised(|| model.clone().materialize());
        EXPORT.set(None);
        let whole = whole?;
        let receives = to == Destination::All || sharding.world.is_chief();
        Ok(receives.then_some(whole))
    }
}

/// What to say of a model that carries no shards.
pub(crate) fn not_sharded() -> Error {
    Error::model(
        "this model",
        "has no sharded parameter",
        "pass the model that Strategy::shard returned",
    )
}

/// What to say of a model that carries shards of two models.
pub(crate) fn two_sharded(path: &str) -> Error {
    Error::model(
        path,
        "belongs to another sharded model than the parameters before it",
        "call this on each of the two",
    )
}

/// Whether this thread is gathering a whole model.
pub(super) fn is_exporting() -> bool {
    EXPORT.with_borrow(Option::is_some)
}

/// The next parameter of the export, with storage of its own.
pub(super) fn take(identity: &Identity) -> Result<Primitive> {
    let Identity {
        sharding,
        unit,
        slot,
    } = identity;
    let layout = &sharding.unit(*unit).layout;
    EXPORT.with_borrow_mut(|export| {
        let export = export.as_mut().ok_or_else(not_sharded)?;
        if let Some(pieces) = export.pieces.remove(unit) {
            let ticket = sharding.gather(*unit, pieces.into(), layout.dtype);
            let flat = sharding.gathered(ticket)?;
            export.gathered.insert(*unit, (flat, layout.slots.len()));
        }
        let (flat, left) = export.gathered.get_mut(unit).ok_or_else(not_sharded)?;
        let place = &layout.slots[*slot];
        let whole = match export.destination == Destination::All || sharding.world.is_chief() {
            true => flat.copy(place.offset, &place.shape),
            // Burn needs a tensor of the same rank; nobody will see this one.
            false => flat.copy(0, &vec![0; place.shape.len()]),
        };
        *left -= 1;
        if *left == 0 {
            export.gathered.remove(unit);
        }
        Ok(whole)
    })
}

/// What this rank holds of a sharded model, unit by unit.
#[derive(Debug)]
pub(crate) struct Apart {
    sharding: Arc<Sharding>,
    pieces: BTreeMap<usize, Vec<Piece>>,
    /// Running state, which every rank has.
    pub(crate) state: Vec<State>,
}

/// A tensor that is no parameter, with its path.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) path: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) piece: Piece,
}

impl Apart {
    /// # Errors
    /// [`Error::Model`] if `model` was not sharded.
    pub(crate) fn of<M: Module>(model: &M) -> Result<Self> {
        let mut pieces = Pieces::default();
        walk(model, &mut pieces);
        let sharding = pieces.sharding.ok_or_else(not_sharded)?;
        pieces.error.map_or(Ok(()), Err)?;
        let in_order = |(unit, slots): (_, BTreeMap<_, _>)| (unit, slots.into_values().collect());
        Ok(Self {
            sharding,
            pieces: pieces.found.into_iter().map(in_order).collect(),
            state: pieces.state,
        })
    }

    /// The units, in the order in which they are gathered.
    pub(crate) fn layouts(&self) -> impl Iterator<Item = &UnitLayout> {
        let units = self.pieces.keys();
        units.map(|unit| &self.sharding.unit(*unit).layout)
    }

    /// Gathers one unit after the other, each of which is gone before the next comes. Collective.
    pub(crate) fn gather(&self, mut each: impl FnMut(&UnitLayout, &Shared)) -> Result<()> {
        for (unit, pieces) in &self.pieces {
            let layout = &self.sharding.unit(*unit).layout;
            let pieces = pieces.clone().into();
            let ticket = self.sharding.gather(*unit, pieces, layout.dtype);
            let flat = self.sharding.gathered(ticket)?;
            each(layout, &flat);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Pieces {
    sharding: Option<Arc<Sharding>>,
    found: BTreeMap<usize, BTreeMap<usize, Piece>>,
    state: Vec<State>,
    error: Option<Error>,
}

impl Visit for Pieces {
    type Held = (Vec<usize>, DType, Result<Piece>);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        let stored = param.base();
        (stored.dims().to_vec(), stored.dtype(), Piece::of(stored))
    }

    fn sharded(&mut self, path: &str, (.., held): Self::Held, identity: Identity) {
        let first = self
            .sharding
            .get_or_insert_with(|| identity.sharding.clone());
        let held = match Arc::ptr_eq(first, &identity.sharding) {
            true => held,
            false => Err(two_sharded(path)),
        };
        match held {
            Ok(piece) => {
                self.found
                    .entry(identity.unit)
                    .or_default()
                    .insert(identity.slot, piece);
            }
            Err(error) => self.error = Some(error),
        }
    }

    fn plain(&mut self, path: &str, (shape, dtype, held): Self::Held) {
        match held {
            Ok(piece) => self.state.push(State {
                path: path.into(),
                shape,
                dtype,
                piece,
            }),
            Err(error) => self.error = Some(error),
        }
    }
}
