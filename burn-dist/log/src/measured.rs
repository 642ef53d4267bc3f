//! What one rank measures in a step, as the numbers that it sends to the others.

use crate::{OverRanks, RankTimes, StepTimes};

/// One rank's numbers of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Measured {
    /// The summed loss of its samples.
    pub(crate) loss: f64,
    pub(crate) samples: f64,
    /// Negative where the program does not count them.
    pub(crate) tokens: f64,
    pub(crate) flops: f64,
    /// Seconds.
    pub(crate) step: f64,
    pub(crate) data: f64,
    pub(crate) forward: f64,
    pub(crate) backward: f64,
    pub(crate) optimizer: f64,
    pub(crate) exposed: f64,
    pub(crate) communication: f64,
    pub(crate) sent_bytes: f64,
    pub(crate) memory_bytes: f64,
    pub(crate) peak_bytes: f64,
}

/// Numbers in it.
pub(crate) const NUMBERS: usize = 14;

impl Measured {
    pub(crate) fn to_numbers(self) -> [f64; NUMBERS] {
        [
            self.loss,
            self.samples,
            self.tokens,
            self.flops,
            self.step,
            self.data,
            self.forward,
            self.backward,
            self.optimizer,
            self.exposed,
            self.communication,
            self.sent_bytes,
            self.memory_bytes,
            self.peak_bytes,
        ]
    }

    pub(crate) fn from_numbers(numbers: [f64; NUMBERS]) -> Self {
        let [
            loss,
            samples,
            tokens,
            flops,
            step,
            data,
            forward,
            backward,
            optimizer,
            exposed,
            communication,
            sent_bytes,
            memory_bytes,
            peak_bytes,
        ] = numbers;
        Self {
            loss,
            samples,
            tokens,
            flops,
            step,
            data,
            forward,
            backward,
            optimizer,
            exposed,
            communication,
            sent_bytes,
            memory_bytes,
            peak_bytes,
        }
    }

    /// Communication that computation did not wait for.
    fn hidden(&self) -> f64 {
        (self.communication - self.exposed).max(0.0)
    }

    /// What tells a rank that is slower than the others.
    pub(crate) fn of_watch(&self) -> RankTimes {
        RankTimes {
            data: self.data,
            compute: self.forward + self.backward + self.optimizer,
            exposed: self.exposed,
        }
    }
}

/// The times of all ranks in a step.
pub(crate) fn times(ranks: &[Measured]) -> StepTimes {
    StepTimes {
        step: over(ranks, |m| m.step),
        data: over(ranks, |m| m.data),
        forward: over(ranks, |m| m.forward),
        backward: over(ranks, |m| m.backward),
        optimizer: over(ranks, |m| m.optimizer),
        exposed: over(ranks, |m| m.exposed),
        hidden: over(ranks, Measured::hidden),
    }
}

/// One number over the ranks.
pub(crate) fn over(ranks: &[Measured], of: impl Fn(&Measured) -> f64) -> OverRanks {
    OverRanks::of(ranks.iter().map(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were() {
        let numbers: [f64; NUMBERS] = std::array::from_fn(|i| i as f64);
        assert_eq!(Measured::from_numbers(numbers).to_numbers(), numbers);
    }

    #[test]
    fn what_is_hidden_is_never_negative() {
        let rank = |exposed, communication| Measured {
            exposed,
            communication,
            ..Measured::default()
        };
        let found = times(&[rank(2.0, 5.0), rank(2.0, 1.0)]);
        assert_eq!(
            found.hidden,
            OverRanks {
                mean: 1.5,
                most: 3.0,
                rank: 0
            }
        );
    }
}
