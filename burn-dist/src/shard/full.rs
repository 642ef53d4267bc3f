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
use std::collections::btree_map::Entry;
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
    units: Vec<Unit>,
    /// Gathered units, by their place among `units`, and how many of their parameters are still to be
    /// taken.
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
        let export = Export {
            destination: to,
            units: Apart::of(model)?.units,
            gathered: BTreeMap::new(),
        };
        EXPORT.set(Some(export));
        let whole = catch_raised(|| model.clone().materialize());
        EXPORT.set(None);
        let whole = whole?;
        let receives = to == Destination::All || self.is_chief();
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
        let is_it = |u: &Unit| u.number == *unit && Arc::ptr_eq(&u.sharding, sharding);
        let at = export.units.iter().position(is_it);
        let at = at.ok_or_else(not_sharded)?;
        let (flat, left) = match export.gathered.entry(at) {
            Entry::Occupied(gathered) => gathered.into_mut(),
            Entry::Vacant(vacant) => {
                let flat = export.units[at].gather()?;
                vacant.insert((flat, layout.slots.len()))
            }
        };
        let place = &layout.slots[*slot];
        let whole = match export.destination == Destination::All || sharding.world.is_chief() {
            true => flat.copy(place.offset, &place.shape),
            // Burn needs a tensor of the same rank; nobody will see this one.
            false => flat.copy(0, &vec![0; place.shape.len()]),
        };
        *left -= 1;
        if *left == 0 {
            export.gathered.remove(&at);
        }
        Ok(whole)
    })
}

/// What this rank holds of a sharded model, unit by unit.
#[derive(Debug)]
pub(crate) struct Apart {
    /// The units of all parts that the model was sharded in.
    units: Vec<Unit>,
    /// Running state, which every rank has, and parameters that were left alone.
    pub(crate) state: Vec<State>,
}

/// A unit, and this rank's pieces of it.
#[derive(Debug)]
struct Unit {
    sharding: Arc<Sharding>,
    /// Its number in its part.
    number: usize,
    /// With the paths that parameters have in the model.
    layout: UnitLayout,
    pieces: Arc<[Piece]>,
}

impl Unit {
    fn gather(&self) -> Result<Shared> {
        let ticket = self
            .sharding
            .gather(self.number, self.pieces.clone(), self.layout.dtype);
        self.sharding.gathered(ticket)
    }
}

/// A tensor that is not sharded, with its path.
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
        let mut look = Look::default();
        walk(model, &mut look);
        look.error.map_or(Ok(()), Err)?;
        let mut units = Vec::new();
        for (sharding, found) in look.parts {
            for (number, slots) in found {
                let mut layout = sharding.unit(number).layout.clone();
                let mut pieces = Vec::new();
                for (slot, (path, piece)) in slots {
                    layout.slots[slot].path = path;
                    pieces.push(piece);
                }
                units.push(Unit {
                    sharding: sharding.clone(),
                    number,
                    layout,
                    pieces: pieces.into(),
                });
            }
        }
        match units.is_empty() {
            true => Err(not_sharded()),
            false => Ok(Self {
                units,
                state: look.state,
            }),
        }
    }

    /// The units, in the order in which they are gathered.
    pub(crate) fn layouts(&self) -> impl Iterator<Item = &UnitLayout> {
        self.units.iter().map(|unit| &unit.layout)
    }

    /// Gathers one unit after the other, each of which is gone before the next comes. Collective.
    pub(crate) fn gather(&self, mut each: impl FnMut(&UnitLayout, &Shared)) -> Result<()> {
        for unit in &self.units {
            let flat = unit.gather()?;
            each(&unit.layout, &flat);
        }
        Ok(())
    }
}

/// The pieces of one unit, by slot, each with its path in the model.
type Slots = BTreeMap<usize, (String, Piece)>;

#[derive(Default)]
struct Look {
    parts: Vec<(Arc<Sharding>, BTreeMap<usize, Slots>)>,
    state: Vec<State>,
    error: Option<Error>,
}

impl Visit for Look {
    type Held = (Vec<usize>, DType, Result<Piece>);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        let stored = param.base();
        (stored.dims().to_vec(), stored.dtype(), Piece::of(stored))
    }

    fn sharded(&mut self, path: &str, (.., held): Self::Held, identity: Identity) {
        let Identity {
            sharding,
            unit,
            slot,
        } = identity;
        let known = self.parts.iter().position(|p| Arc::ptr_eq(&p.0, &sharding));
        let part = known.unwrap_or_else(|| {
            self.parts.push((sharding, BTreeMap::new()));
            self.parts.len() - 1
        });
        match held {
            Ok(piece) => {
                let slots = self.parts[part].1.entry(unit).or_default();
                slots.insert(slot, (path.into(), piece));
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
