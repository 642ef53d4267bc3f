//! The shapes of a learning rate over a run.

use burn_dist::training::Schedule;
use clap::ValueEnum;
use serde::Serialize;

/// How the learning rate falls after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum ScheduleKind {
    /// In half a cosine, to zero.
    Cosine,
    /// In a straight line, to zero.
    Linear,
    /// Not at all.
    Constant,
}

impl ScheduleKind {
    /// The schedule with this highest rate.
    pub fn to(self, rate: f64) -> Schedule {
        match self {
            Self::Cosine => Schedule::cosine(rate),
            Self::Linear => Schedule::linear(rate),
            Self::Constant => Schedule::constant(rate),
        }
    }
}
