//! What ranks did last, for those that wait for no other.

use super::Ranking;
use super::site::{Site, stuck};
use crate::comm::{Event, Flight, State};
use crate::launch::rank_set::RankSet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// How far the ranks of a group have come: by sequence, the collective and who has done it last.
type Places<'a> = BTreeMap<u64, (&'a Event, BTreeSet<usize>)>;

impl Ranking<'_> {
    /// What ranks did last, one line for those of which the same can be said.
    pub(super) fn last(&self, ranks: &BTreeSet<usize>, text: &mut String) {
        let mut same: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for &rank in ranks {
            let known = match (self.flights.get(&rank), self.ends.get(&rank)) {
                (Some(flight), _) => last_words(flight),
                (None, Some(end)) => format!("left no record: it {end}"),
                (None, None) => {
                    "left no record: killed, stopped, still running, or on another host".into()
                }
            };
            same.entry(known).or_default().insert(rank);
        }
        let mut lines: Vec<_> = same.into_iter().collect();
        lines.sort_by_key(|(_, ranks)| ranks.first().copied());
        for (known, ranks) in lines {
            let _ = writeln!(text, "{} {known}", RankSet(&ranks));
        }
    }

    /// Ranks of a group that have done less than the others, where nobody waits.
    pub(super) fn behind(&self, text: &mut String) {
        let mut groups: BTreeMap<&[usize], Places<'_>> = BTreeMap::new();
        for (&rank, &flight) in &self.flights {
            let mut seen = BTreeSet::new();
            for event in flight.events.iter().rev() {
                if seen.insert(&event.group) {
                    let group = groups.entry(&event.group).or_default();
                    let none = || (event, BTreeSet::new());
                    group
                        .entry(event.sequence)
                        .or_insert_with(none)
                        .1
                        .insert(rank);
                }
            }
        }
        for mut places in groups.into_values() {
            let Some((_, (front, _))) = places.pop_last() else {
                continue;
            };
            let group = Site::of(front).group();
            for (event, ranks) in places.values() {
                let (ranks, verb) = (RankSet(ranks), RankSet(ranks).verb("is", "are"));
                let _ = writeln!(
                    text,
                    "{ranks} {verb} behind: last {event}, where others of {group} did {front}"
                );
            }
        }
    }
}

/// The last thing a rank did, and why it ended.
fn last_words(flight: &Flight) -> String {
    let last = stuck(flight).or(flight.events.last());
    let mut words = match last {
        None => "called no collective".to_string(),
        Some(event) => {
            let state = match event.state {
                State::Running => "not over",
                State::Done => "done",
                State::Failed => "failed",
            };
            format!("last called {event}: {state}")
        }
    };
    if let Some(line) = flight.error.lines().next() {
        let _ = write!(words, "; it ended with: {line}");
    }
    words
}
