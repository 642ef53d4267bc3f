//! One start of this host's ranks, to their end.

use super::end::{Ended, Outcome};
use super::local_ranks::{LocalRanks, Supervisor};
use super::rank_variables::RankVariables;
use super::summary::{self, Failure};
use crate::error::Result;
use crate::launch::diagnosis::diagnose;

/// How the ranks of this host have ended.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) outcome: Outcome,
    /// The first failure, if there was one.
    pub(super) failure: Option<Failure>,
    /// The signal that asked the launcher to stop.
    pub(super) stop: Option<i32>,
}

impl Attempt {
    /// Starts the ranks, waits for them, and prints what failed.
    pub(super) fn run(supervisor: &Supervisor, variables: &RankVariables<'_>) -> Result<Self> {
        let (records, part) = (variables.records, variables.part);
        records.prepare(part.here())?;
        let mut outcome = LocalRanks::start(supervisor, variables)?.wait();
        for ended in outcome.ends.iter_mut().filter(|e| !e.end.is_success()) {
            ended.error = records.error(ended.rank);
        }
        let failure = summary::failure(&outcome);
        if let Some(failure) = &failure {
            supervisor.stderr.print(&failure.text);
        }
        if failure.as_ref().is_some_and(|failure| !failure.expected) {
            let by = |e: &Ended| if e.ours { " of the launcher" } else { "" };
            let ends = outcome.ends.iter();
            let ends = ends
                .map(|e| (e.rank, format!("{}{}", e.end, by(e))))
                .collect();
            let text = diagnose(&records.flights(part.world), part.world, &ends);
            supervisor.stderr.print(&text);
        }
        let stop = outcome.stop.or_else(|| supervisor.watch.stop());
        Ok(Self {
            outcome,
            failure,
            stop,
        })
    }
}
