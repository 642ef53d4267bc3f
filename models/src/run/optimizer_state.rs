//! The types in which the examples' optimizer keeps its states.

use burn_dist::optim::StateType;
use clap::ValueEnum;
use serde::Serialize;

/// The type of the optimizer's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum OptimizerState {
    /// 8 bytes a parameter.
    F32,
    /// 4 bytes a parameter.
    Bf16,
    /// 2 bytes a parameter, in blocks of 256 that have a scale each.
    Int8,
}

impl OptimizerState {
    /// The type of few bits, if it is one.
    pub fn few_bits(self) -> Option<StateType> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(StateType::Bf16),
            Self::Int8 => Some(StateType::Int8),
        }
    }
}
