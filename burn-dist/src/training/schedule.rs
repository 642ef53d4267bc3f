//! The learning rate by step: a warmup, then a decay.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The learning rate of each step: a linear warmup to a peak, then a decay, or none.
///
/// A pure function of the step, so that a resumed run needs no state of it. Burn's schedulers serve as well: they
/// are functions of how often they were asked, so that a run that resumes at step `n` asks a new one `n` times.
///
/// ```
/// use burn_dist::training::Schedule;
///
/// let rates = Schedule::cosine(1.0).warmup(10);
/// assert_eq!(rates.at(4, 110), 0.5);
/// assert_eq!(rates.at(10, 110), 1.0);
/// assert!((rates.at(60, 110) - 0.5).abs() < 1e-12);
/// assert_eq!(Schedule::linear(1.0).at(75, 100), 0.25);
/// assert_eq!(Schedule::constant(0.1).at(7, 10), 0.1);
/// ```
///
/// # Source
/// Loshchilov & Hutter, *SGDR*, 2016, without restarts; Hugging Face: `get_cosine_schedule_with_warmup`,
/// `get_linear_schedule_with_warmup`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[must_use]
pub struct Schedule {
    peak: f64,
    warmup: Warmup,
    decay: Decay,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Warmup {
    Steps(usize),
    Share(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Decay {
    Constant,
    Linear,
    Cosine,
}

impl Schedule {
    /// The same rate at every step.
    pub fn constant(rate: f64) -> Self {
        Self {
            peak: rate,
            warmup: Warmup::Steps(0),
            decay: Decay::Constant,
        }
    }

    /// From `peak` down to zero in a straight line.
    pub fn linear(peak: f64) -> Self {
        Self {
            decay: Decay::Linear,
            ..Self::constant(peak)
        }
    }

    /// From `peak` down to zero in half a cosine.
    pub fn cosine(peak: f64) -> Self {
        Self {
            decay: Decay::Cosine,
            ..Self::constant(peak)
        }
    }

    /// The same, after so many steps in which the rate rises to its peak.
    pub fn warmup(mut self, steps: usize) -> Self {
        self.warmup = Warmup::Steps(steps);
        self
    }

    /// The same, with a warmup of this share of the run, rounded up.
    pub fn warmup_share(mut self, share: f64) -> Self {
        self.warmup = Warmup::Share(share);
        self
    }

    /// The rate of a step, counted from 0, of a run of `steps`.
    pub fn at(&self, step: usize, steps: usize) -> f64 {
        let warmup = match self.warmup {
            Warmup::Steps(steps) => steps,
            // A tenth of 30 steps is 3, although its nearest f64 is above.
            Warmup::Share(share) => (share * steps as f64 - 1e-9).ceil().max(0.0) as usize,
        };
        if step < warmup {
            return self.peak * (step + 1) as f64 / warmup as f64;
        }
        let rest = steps.saturating_sub(warmup).max(1) as f64;
        let done = ((step - warmup) as f64 / rest).min(1.0);
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Linear => self.peak * (1.0 - done),
            Decay::Cosine => self.peak * 0.5 * (1.0 + (PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_run_is_rounded_up() {
        for steps in 1..2000_usize {
            let share = Schedule::cosine(1.0).warmup_share(0.1);
            let exact = Schedule::cosine(1.0).warmup(steps.div_ceil(10));
            for step in [0, steps / 10, steps / 2, steps] {
                assert_eq!(
                    share.at(step, steps),
                    exact.at(step, steps),
                    "{step} of {steps}"
                );
            }
        }
    }

    #[test]
    fn a_run_without_steps_has_a_rate() {
        for schedule in [
            Schedule::linear(1.0),
            Schedule::cosine(1.0).warmup_share(0.1),
        ] {
            assert!(schedule.at(0, 0).is_finite());
        }
    }
}
