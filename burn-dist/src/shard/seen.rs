//! Which units a module consists of, and what it stores of them now.

use super::flat::Piece;
use super::sharded::{Identity, Visit, walk};
use super::sharding::Sharding;
use crate::error::Result;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The units of a module and the pieces it stores of them now.
pub(super) struct Seen {
    pub(super) sharding: Option<Arc<Sharding>>,
    /// Whether the module is in training mode: a tape may keep what is gathered for it.
    pub(super) has_tape: bool,
    units: BTreeMap<usize, Vec<Option<Piece>>>,
    result: Result<()>,
}

impl Seen {
    pub(super) fn look<M: Module>(module: &M) -> Result<Self> {
        let mut seen = Self {
            sharding: None,
            has_tape: false,
            units: BTreeMap::new(),
            result: Ok(()),
        };
        walk(module, &mut seen);
        seen.result.clone().map(|()| seen)
    }

    /// The units that lie wholly in the module.
    pub(super) fn complete(&self) -> impl Iterator<Item = (usize, Arc<[Piece]>)> + '_ {
        self.units.iter().filter_map(|(unit, pieces)| {
            let pieces: Option<Arc<[Piece]>> = pieces.iter().cloned().collect();
            pieces.map(|pieces| (*unit, pieces))
        })
    }

    /// The unit that the module itself is, in all its parts; not the units inside it.
    pub(super) fn own(&self) -> Vec<(usize, Arc<[Piece]>)> {
        let Some(sharding) = &self.sharding else {
            return Vec::new();
        };
        let path = |unit: usize| sharding.unit(unit).layout.path.as_str();
        let depth = |unit: usize| {
            path(unit)
                .split('.')
                .filter(|name| !name.is_empty())
                .count()
        };
        let Some(shallowest) = self.units.keys().map(|u| depth(*u)).min() else {
            return Vec::new();
        };
        let own: Vec<_> = self
            .complete()
            .filter(|(u, _)| depth(*u) == shallowest)
            .collect();
        // Several side by side are the units of inner calls; this module only contains them.
        match own
            .windows(2)
            .all(|pair| path(pair[0].0) == path(pair[1].0))
        {
            true => own,
            false => Vec::new(),
        }
    }
}

impl Visit for Seen {
    type Held = Result<Piece>;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<Piece> {
        let stored = param.base();
        self.has_tape |= stored.is_autodiff();
        Piece::of(stored)
    }

    fn sharded(&mut self, _: &str, held: Result<Piece>, identity: Identity) {
        let sharding = self
            .sharding
            .get_or_insert_with(|| identity.sharding.clone());
        // A module of several sharded models is the unit of none.
        if !Arc::ptr_eq(sharding, &identity.sharding) {
            return;
        }
        let slots = sharding.unit(identity.unit).layout.slots.len();
        let pieces = self
            .units
            .entry(identity.unit)
            .or_insert_with(|| vec![None; slots]);
        match held {
            Ok(piece) => pieces[identity.slot] = Some(piece),
            Err(error) => self.result = Err(error),
        }
    }
}
