//! How much faster a run is than the same on one rank.

use super::Run;

/// A run's time of an epoch beside that of its baseline, which differs in the set-up alone and is `1_1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeedUp {
    /// The baseline's time by that of the run.
    pub times: f64,
    /// That by the number of ranks: 1 is perfect.
    pub efficiency: f64,
}

impl SpeedUp {
    /// Of one run among all; `None` for the baseline itself, without one, and where ranks share cores.
    pub fn of(run: &Run, all: &[Run]) -> Option<Self> {
        let ranks = run.experiment.setup.ranks();
        if ranks == 1 || run.shares_cores {
            return None;
        }
        let baseline = all.iter().find(|other| {
            let one = &other.experiment;
            one.setup.ranks() == 1
                && !other.shares_cores
                && one.differs_in_setup_alone(&run.experiment)
        })?;
        let times = baseline.seconds_per_epoch()? / run.seconds_per_epoch()?;
        Some(Self {
            times,
            efficiency: times / ranks as f64,
        })
    }
}
