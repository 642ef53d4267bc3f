//! What is measured: a strategy with options.

use burn_dist::{Precision, Strategy};
use std::fmt;

/// A strategy, and how many backward passes a step has.
#[derive(Debug, Clone)]
pub struct Case {
    pub strategy: Strategy,
    pub accumulate: usize,
}

impl Case {
    fn of(strategy: Strategy) -> Self {
        Self {
            strategy,
            accumulate: 1,
        }
    }

    /// All cases of a number of ranks.
    pub fn all(ranks: usize) -> Vec<Self> {
        if ranks == 1 {
            return [Strategy::single(), Strategy::ddp(), Strategy::fsdp()]
                .map(Self::of)
                .into();
        }
        let mut strategies = vec![
            Strategy::ddp(),
            Strategy::zero1(),
            Strategy::zero2(),
            Strategy::fsdp(),
            // Pairs of replicas: of whole models on two ranks.
            Strategy::hybrid(ranks / 2),
        ];
        strategies.push(Strategy::fsdp().precision(Precision::bf16()));
        strategies.push(Strategy::fsdp().recompute(true));
        let mut all: Vec<_> = strategies.into_iter().map(Self::of).collect();
        for strategy in [Strategy::ddp(), Strategy::zero2(), Strategy::fsdp()] {
            all.push(Self {
                strategy,
                accumulate: 4,
            });
        }
        all
    }

    /// The strategy alone, as it is given on a command line.
    pub fn strategy(&self) -> String {
        self.strategy.to_string()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.strategy())?;
        match self.accumulate {
            1 => Ok(()),
            passes => write!(f, ", {passes} passes a step"),
        }
    }
}
