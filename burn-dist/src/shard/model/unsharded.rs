//! Gathered buffers that outlive a pass.

use crate::shard::memory::{Shard, Shards, SharedFlat, is_same_memory};
use std::collections::HashMap;

/// A parameter by its unit and slot, in one type.
type Parameter = (usize, usize, &'static str);

/// Unsharded buffers that stay until the backward pass or the step, each with the shards that it was
/// gathered from.
///
/// Several forwards may come before a backward, or none ever: all of them use what is here, instead of
/// each keeping a buffer of its own alive.
#[derive(Debug)]
pub(super) struct Unsharded {
    units: Vec<Option<(Shards, SharedFlat)>>,
    /// Parameters that were gathered alone.
    alone: HashMap<Parameter, (Shard, SharedFlat)>,
}

impl Unsharded {
    pub(super) fn new(units: usize) -> Self {
        Self {
            units: vec![None; units],
            alone: HashMap::new(),
        }
    }

    /// The buffer of a unit, if it was gathered from these shards; any other is dropped.
    pub(super) fn unit(&mut self, unit: usize, shards: &Shards) -> Option<SharedFlat> {
        match &self.units[unit] {
            Some((from, flat)) if is_same_memory(from, shards) => Some(flat.clone()),
            _ => {
                self.units[unit] = None;
                None
            }
        }
    }

    pub(super) fn keep_unit(&mut self, unit: usize, shards: Shards, flat: SharedFlat) {
        self.units[unit] = Some((shards, flat));
    }

    /// The buffer of a parameter that was gathered alone, if it was from this shard.
    pub(super) fn parameter(&self, key: Parameter, shard: &Shard) -> Option<SharedFlat> {
        let (from, flat) = self.alone.get(&key)?;
        from.is(shard).then(|| flat.clone())
    }

    pub(super) fn keep_parameter(&mut self, key: Parameter, shard: Shard, flat: SharedFlat) {
        self.alone.insert(key, (shard, flat));
    }

    /// Drops what is kept of a unit.
    pub(super) fn reshard_unit(&mut self, unit: usize) {
        self.units[unit] = None;
        self.alone.retain(|(of, ..), _| *of != unit);
    }

    /// Drops everything.
    pub(super) fn reshard_all(&mut self) {
        self.units.iter_mut().for_each(|kept| *kept = None);
        self.alone.clear();
    }
}
