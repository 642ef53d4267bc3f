//! The collective that a rank is in.

use crate::comm::{Event, Flight, Op, State};
use crate::launch::rank_set::ranges;

/// A collective that ranks are in: all of this must be equal on all ranks of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site<'a> {
    pub(super) group: &'a [usize],
    pub(super) sequence: u64,
    pub(super) op: Op,
    pub(super) unit: &'a str,
    pub(super) dtype: &'static str,
    pub(super) len: usize,
}

impl<'a> Site<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        Self {
            group: &event.group,
            sequence: event.sequence,
            op: event.op,
            unit: &event.unit,
            dtype: event.dtype.name(),
            len: event.len,
        }
    }

    /// What the ranks that come to the same point must have in common.
    pub(super) fn point(&self) -> (&'a [usize], u64) {
        (self.group, self.sequence)
    }

    pub(super) fn group(&self) -> String {
        format!("group {}", ranges(self.group.iter().copied()))
    }
}

/// The collective that a rank did not come out of. After one has failed, all others fail at once.
pub(super) fn stuck(flight: &Flight) -> Option<&Event> {
    flight.events.iter().find(|e| e.state != State::Done)
}
