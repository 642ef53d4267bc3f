//! Prefetch: the unit that should come next is gathered while this one computes.

use super::pass::Pass;
use crate::comm::Ticket;
use crate::shard::memory::{Shards, is_same_memory};
use crate::shard::model::{GatheredUnit, Sharding, StoredShards, StoredUnit};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// The prefetch of one forward, from its outermost `unit` call to that call's end.
pub(super) struct Prefetch {
    /// Those of the module that the outermost call was made for.
    shardings: Vec<Arc<Sharding>>,
    /// Units not reached yet, in the order of the module.
    ahead: VecDeque<Ahead>,
    /// The one whose gather was started.
    gathering: Option<(Ahead, Ticket<GatheredUnit>)>,
    /// The latest pass that backward will gather again.
    last: Option<Arc<Pass>>,
}

/// A unit that is expected.
struct Ahead {
    sharding: Arc<Sharding>,
    unit: usize,
    shards: Shards,
}

impl Ahead {
    fn is(&self, unit: &StoredUnit) -> bool {
        self.unit == unit.number && Arc::ptr_eq(&self.sharding, &unit.sharding)
    }
}

thread_local! {
    static PREFETCH: RefCell<Option<Prefetch>> = const { RefCell::new(None) };
}

/// Begins the prefetch of a forward, unless one is going on already; whether this call did.
pub(super) fn begin(stored: &StoredShards) -> bool {
    PREFETCH.with_borrow_mut(|prefetch| {
        let first = prefetch.is_none();
        if first {
            *prefetch = Some(Prefetch::new(stored));
        }
        first
    })
}

/// Ends the forward that [`begin`] began.
pub(super) fn end() {
    if let Some(mut prefetch) = PREFETCH.take() {
        prefetch.discard();
    }
}

/// Runs `f` on the prefetch of the forward that is going on, if there is one.
pub(super) fn with<T>(f: impl FnOnce(&mut Prefetch) -> T) -> Option<T> {
    PREFETCH.with_borrow_mut(|prefetch| prefetch.as_mut().map(f))
}

impl Prefetch {
    fn new(stored: &StoredShards) -> Self {
        let is_gathered =
            |unit: &&StoredUnit| unit.is_complete() && !unit.sharding.is_replicated(unit.number);
        let ahead = stored.units.iter().filter(is_gathered).map(|unit| Ahead {
            sharding: unit.sharding.clone(),
            unit: unit.number,
            shards: unit.shards.clone(),
        });
        Self {
            shardings: stored.shardings(),
            ahead: ahead.collect(),
            gathering: None,
            last: None,
        }
    }

    /// `unit` is reached: its gather, if it was started.
    pub(super) fn take(&mut self, unit: &StoredUnit) -> Option<Ticket<GatheredUnit>> {
        // What every rank stores whole is not gathered, and lies in a unit beside what is.
        if unit.sharding.is_replicated(unit.number) {
            return None;
        }
        // Another model within the forward of this one is not prefetched.
        let mut shardings = self.shardings.iter();
        if !shardings.any(|sharding| Arc::ptr_eq(sharding, &unit.sharding)) {
            return None;
        }
        if let Some(at) = self.ahead.iter().position(|ahead| ahead.is(unit)) {
            self.ahead.drain(..=at);
        }
        match self.gathering.take() {
            Some((ahead, ticket))
                if ahead.is(unit) && is_same_memory(&ahead.shards, &unit.shards) =>
            {
                Some(ticket)
            }
            other => {
                self.gathering = other;
                self.discard();
                None
            }
        }
    }

    /// Waits for a gather that is not needed. Every rank has started it and drops it here; a gather that
    /// is still going on could come between other collectives on one rank only.
    fn discard(&mut self) {
        if let Some((ahead, ticket)) = self.gathering.take() {
            // If it failed, so will the next collective, which can say so.
            let _ = ahead.sharding.world.waiting(|| ticket.wait());
        }
    }

    /// Backward will gather this pass again, and the one that came before it behind it.
    pub(super) fn order_backward(&mut self, pass: &Arc<Pass>) {
        pass.set_backward_prefetch(self.last.replace(pass.clone()));
    }

    /// Starts the gather of the unit that should come next.
    pub(super) fn start_next(&mut self) {
        if self.gathering.is_none()
            && let Some(ahead) = self.ahead.pop_front()
            && ahead
                .sharding
                .kept_unit(ahead.unit, &ahead.shards)
                .is_none()
        {
            let shards = ahead.shards.clone();
            let ticket = ahead.sharding.gather_for_pass(ahead.unit, shards);
            self.gathering = Some((ahead, ticket));
        }
    }
}
