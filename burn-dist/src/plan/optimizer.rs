//! The bytes of an optimizer's states.

use crate::layout::UnitLayout;
#[cfg(feature = "nn")]
use burn_dist_nn::optim::StateType;
use std::fmt;

/// What a rank keeps for an optimizer.
#[derive(Debug, Clone)]
pub(super) enum OptimizerBytes {
    /// AdamW's two states in the types of parameters.
    AdamW,
    /// Those of an AdamW in a type of few bits.
    #[cfg(feature = "nn")]
    FewBits(StateType),
    /// Of another optimizer, for each unit.
    Other {
        name: &'static str,
        bytes: Vec<usize>,
    },
}

impl OptimizerBytes {
    /// For all units that are trained.
    pub(super) fn sum(&self, units: &[UnitLayout]) -> usize {
        let units = units.iter().enumerate();
        let trained = units.filter(|(_, unit)| unit.trainable);
        trained.map(|(at, unit)| self.of_unit(at, unit)).sum()
    }

    fn of_unit(&self, at: usize, unit: &UnitLayout) -> usize {
        match self {
            Self::AdamW => 2 * unit.bytes() / unit.ranks,
            // Blocks are counted from the start of each parameter.
            #[cfg(feature = "nn")]
            Self::FewBits(states) if unit.ranks == 1 => {
                let slots = unit.slots.iter();
                2 * slots.map(|s| states.bytes(s.len)).sum::<usize>()
            }
            #[cfg(feature = "nn")]
            Self::FewBits(states) => 2 * states.bytes(unit.shard_len),
            Self::Other { bytes, .. } => bytes.get(at).copied().unwrap_or(0),
        }
    }
}

impl fmt::Display for OptimizerBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AdamW => f.write_str("AdamW"),
            #[cfg(feature = "nn")]
            Self::FewBits(StateType::Bf16) => f.write_str("AdamW in bf16"),
            #[cfg(feature = "nn")]
            Self::FewBits(StateType::Int8) => f.write_str("AdamW in int8"),
            Self::Other { name, .. } => f.write_str(name),
        }
    }
}
