//! The whole model again, gathered unit by unit.

use super::sharded::ShardedParam;
use super::stored::{StoredShards, StoredUnit, not_sharded};
use crate::error::Result;
use crate::shard::memory::{Primitive, SharedFlat};
use crate::unwind::catch_raised;
use crate::world::World;
use burn::module::Module;
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
    static GATHERING: RefCell<Option<Gathering>> = const { RefCell::new(None) };
}

/// A whole model that is being gathered in this thread.
struct Gathering {
    destination: Destination,
    units: Vec<StoredUnit>,
    /// Gathered units, by their index in `units`, and how many of their parameters are still to be
    /// taken.
    gathered: BTreeMap<usize, (SharedFlat, usize)>,
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
    /// [`Error::Model`](crate::Error::Model) if `model` was not sharded; what collectives return.
    pub fn full<M: Module>(&self, model: &M, to: Destination) -> Result<Option<M>> {
        let whole = gathered(model, to)?;
        let receives = to == Destination::All || self.is_chief();
        Ok(receives.then_some(whole))
    }
}

/// A plain copy of a sharded model, or of a part of one, on every rank. Collective.
pub(crate) fn on_every_rank<M: Module>(model: &M) -> Result<M> {
    gathered(model, Destination::All)
}

fn gathered<M: Module>(model: &M, destination: Destination) -> Result<M> {
    let gathering = Gathering {
        destination,
        units: StoredShards::of_sharded(model)?.units,
        gathered: BTreeMap::new(),
    };
    GATHERING.set(Some(gathering));
    let whole = catch_raised(|| model.clone().materialize());
    GATHERING.set(None);
    whole
}

/// Whether this thread is gathering a whole model.
pub(crate) fn is_gathering() -> bool {
    GATHERING.with_borrow(Option::is_some)
}

/// The next parameter of the model, with storage of its own.
pub(crate) fn take(param: &ShardedParam) -> Result<Primitive> {
    let ShardedParam {
        sharding,
        unit,
        slot,
    } = param;
    let layout = &sharding.unit(*unit).layout;
    GATHERING.with_borrow_mut(|gathering| {
        let gathering = gathering.as_mut().ok_or_else(not_sharded)?;
        let is_it = |u: &StoredUnit| u.number == *unit && Arc::ptr_eq(&u.sharding, sharding);
        let at = gathering.units.iter().position(is_it);
        let at = at.ok_or_else(not_sharded)?;
        let (flat, left) = match gathering.gathered.entry(at) {
            Entry::Occupied(gathered) => gathered.into_mut(),
            Entry::Vacant(vacant) => {
                let unit = &gathering.units[at];
                let parameters = unit.shards.iter().flatten().count();
                vacant.insert((unit.gather()?, parameters))
            }
        };
        let slot = &layout.slots[*slot];
        let full = if gathering.destination == Destination::All || sharding.world.is_chief() {
            flat.copy(slot.offset, &slot.shape)
        } else {
            // Burn needs a tensor of the same rank; nobody will see this one.
            flat.copy(0, &vec![0; slot.shape.len()])
        };
        *left -= 1;
        if *left == 0 {
            gathering.gathered.remove(&at);
        }
        Ok(full)
    })
}
