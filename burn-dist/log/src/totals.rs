//! Sums over the steps of a run, rank by rank.

use crate::measured::{Measured, NUMBERS, over, times};
use crate::{OverRanks, StepTimes};

/// What all ranks have measured so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    steps: u64,
    /// The first step, in which memory is touched for the first time and connections are new.
    first: Vec<Measured>,
    /// The sums of the others.
    rest: Vec<[f64; NUMBERS]>,
    peak: OverRanks,
    /// Seconds of the slowest rank of each step but the first, and what was done in them.
    seconds: f64,
    samples: f64,
    tokens: Option<f64>,
    flops: Option<f64>,
}

/// The sum of a number that is negative where a program does not count it.
pub(crate) fn counted(ranks: &[Measured], of: impl Fn(&Measured) -> f64) -> Option<f64> {
    let all = || ranks.iter().map(&of);
    (!ranks.is_empty() && all().all(|number| number >= 0.0)).then(|| all().sum())
}

impl Totals {
    /// Adds a step, given by what each rank measured.
    pub(crate) fn add(&mut self, ranks: &[Measured]) {
        self.steps += 1;
        self.peak = over(ranks, |m| m.peak_bytes);
        let seconds = over(ranks, |m| m.step).most;
        let samples: f64 = ranks.iter().map(|m| m.samples).sum();
        let (tokens, flops) = (counted(ranks, |m| m.tokens), counted(ranks, |m| m.flops));
        if self.steps > 2 {
            self.seconds += seconds;
            self.samples += samples;
            self.tokens = self.tokens.zip(tokens).map(|(sum, more)| sum + more);
            self.flops = self.flops.zip(flops).map(|(sum, more)| sum + more);
        } else {
            // The second step replaces the first one, which is only kept for want of another.
            (self.seconds, self.samples) = (seconds, samples);
            (self.tokens, self.flops) = (tokens, flops);
        }
        if self.steps == 1 {
            self.first = ranks.to_vec();
            self.rest = vec![[0.0; NUMBERS]; ranks.len()];
            return;
        }
        for (sum, rank) in self.rest.iter_mut().zip(ranks) {
            let more = rank.to_numbers();
            sum.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
        }
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Each rank's mean step, the first left out if there are others.
    fn means(&self) -> Vec<Measured> {
        if self.steps < 2 {
            return self.first.clone();
        }
        let steps = (self.steps - 1) as f64;
        let mean = |sum: &[f64; NUMBERS]| Measured::from_numbers(sum.map(|x| x / steps));
        self.rest.iter().map(mean).collect()
    }

    /// The mean step.
    pub(crate) fn times(&self) -> StepTimes {
        times(&self.means())
    }

    /// Bytes sent in the mean step.
    pub(crate) fn sent_bytes(&self) -> OverRanks {
        over(&self.means(), |m| m.sent_bytes)
    }

    /// The most bytes that a rank has held.
    pub(crate) fn peak_bytes(&self) -> OverRanks {
        self.peak
    }

    fn per_second(&self, done: f64) -> f64 {
        done / self.seconds.max(1e-9)
    }

    /// Samples of all ranks per second; 0 before the first step.
    pub(crate) fn samples_per_s(&self) -> f64 {
        self.per_second(self.samples)
    }

    /// Tokens of all ranks per second.
    pub(crate) fn tokens_per_s(&self) -> Option<f64> {
        self.tokens.map(|tokens| self.per_second(tokens))
    }

    /// Operations of all ranks per second.
    pub(crate) fn flops_per_s(&self) -> Option<f64> {
        self.flops.map(|flops| self.per_second(flops))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(step: f64, samples: f64, tokens: f64) -> Measured {
        Measured {
            step,
            samples,
            tokens,
            flops: -1.0,
            sent_bytes: 10.0 * step,
            ..Measured::default()
        }
    }

    #[test]
    fn the_first_step_counts_only_alone() {
        let mut totals = Totals::default();
        assert_eq!((totals.steps(), totals.samples_per_s()), (0, 0.0));
        totals.add(&[rank(10.0, 4.0, 8.0), rank(5.0, 4.0, 8.0)]);
        assert_eq!(
            totals.times().step,
            OverRanks {
                mean: 7.5,
                most: 10.0,
                rank: 0
            }
        );
        assert_eq!(totals.samples_per_s(), 0.8);
        totals.add(&[rank(1.0, 4.0, 8.0), rank(2.0, 4.0, 8.0)]);
        totals.add(&[rank(1.0, 4.0, 8.0), rank(2.0, 4.0, 6.0)]);
        assert_eq!(
            totals.times().step,
            OverRanks {
                mean: 1.5,
                most: 2.0,
                rank: 1
            }
        );
        assert_eq!(totals.sent_bytes().most, 20.0);
        assert_eq!(totals.samples_per_s(), 4.0);
        assert_eq!(totals.tokens_per_s(), Some(7.5));
        assert_eq!(totals.flops_per_s(), None);
    }
}
