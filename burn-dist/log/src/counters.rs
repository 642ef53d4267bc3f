//! What is counted on a rank, to be compared between two moments.

use burn_dist::World;
use burn_dist::telemetry::{Phase, Phases};
use std::time::Duration;

/// What is counted from the start of a rank.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) phases: [Duration; 4],
    pub(crate) exposed: Duration,
    pub(crate) communication: Duration,
    pub(crate) sent_bytes: u64,
}

impl Counters {
    pub(crate) fn read(world: &World, phases: &Phases) -> Self {
        let all = [
            Phase::Data,
            Phase::Forward,
            Phase::Backward,
            Phase::Optimizer,
        ];
        let mut spent = [Duration::ZERO; 4];
        all.iter()
            .for_each(|phase| spent[*phase as usize] = phases.of(*phase));
        Self {
            phases: spent,
            exposed: phases.exposed(),
            communication: world.communication(),
            sent_bytes: world.ledger().all().bytes,
        }
    }
}
