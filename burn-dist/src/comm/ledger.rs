//! What was communicated: calls, bytes and time, per kind and unit.
//!
//! Tests compare these numbers with the plan, benches compute rates from them, and the examples print
//! them.

use super::Op;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The totals of one kind of collective for one unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry {
    /// How often it was called.
    pub calls: u64,
    /// Bytes that this rank has to send under the ring algorithms, whichever the engine uses:
    /// `(n - 1) / n` of the full buffer, twice that for an all-reduce, all of it for a broadcast.
    pub bytes: u64,
    /// Time inside the engine, waiting for other ranks included.
    pub time: Duration,
}

impl Entry {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.bytes += other.bytes;
        self.time += other.time;
    }
}

/// The kind of a collective and the unit it was for.
type Key = (Op, Arc<str>);

/// One rank's totals; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: Arc<Mutex<BTreeMap<Key, Entry>>>,
    log: Arc<Mutex<Option<Vec<Key>>>>,
}

impl Ledger {
    pub(super) fn record(&self, op: Op, unit: &Arc<str>, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.entry((op, unit.clone())).or_default().add(entry);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = log.as_mut() {
            log.push((op, unit.clone()));
        }
    }

    /// The totals of one kind over all units.
    pub fn total(&self, op: Op) -> Entry {
        self.sum(|kind, _| kind == op)
    }

    /// The totals of one kind for one unit.
    pub fn of(&self, op: Op, unit: &str) -> Entry {
        self.sum(|kind, name| kind == op && name == unit)
    }

    /// The totals of everything.
    pub fn all(&self) -> Entry {
        self.sum(|_, _| true)
    }

    fn sum(&self, mut wanted: impl FnMut(Op, &str) -> bool) -> Entry {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Entry::default();
        for ((op, unit), entry) in entries.iter() {
            if wanted(*op, unit) {
                sum.add(*entry);
            }
        }
        sum
    }

    /// Every kind and unit with its totals, sorted.
    pub fn entries(&self) -> Vec<(Op, Arc<str>, Entry)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter()
            .map(|((op, unit), e)| (*op, unit.clone(), *e))
            .collect()
    }

    /// Clears all totals, and starts to log the order of calls for [`order`](Self::order).
    pub fn reset(&self) {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// The calls since the last [`reset`](Self::reset), in the order in which they were issued.
    pub fn order(&self) -> Vec<(Op, Arc<str>)> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .unwrap_or_default()
    }
}
