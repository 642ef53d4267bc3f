//! What an optimizer and a moving average keep, in a plan.

use super::Plan;
use crate::layout::{Slot, UnitLayout};

/// A type of an optimizer's states.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "nn"), allow(dead_code))]
pub(super) struct States {
    pub(super) name: &'static str,
    /// The bytes of so many elements, the first of which begins a block.
    bytes: fn(usize) -> usize,
}

impl Plan {
    /// The same plan beside an [`Ema`](crate::optim::Ema), which keeps a copy of what trains.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::Strategy;
    ///
    /// let model = LinearConfig::new(256, 64).init(&Device::flex());
    /// let memory = Strategy::fsdp().plan(&model, 4)?.for_average().memory();
    /// assert_eq!(memory.average, memory.parameters);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn for_average(self) -> Self {
        Self {
            has_average: true,
            ..self
        }
    }

    /// The same plan for an AdamW that keeps its states in a type of few bits.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::{Strategy, optim::StateType};
    ///
    /// let model = LinearConfig::new(512, 512).init(&Device::flex());
    /// let plan = Strategy::fsdp().block_aligned(256).plan(&model, 2)?;
    /// let wide = plan.memory().optimizer;
    /// let narrow = plan.for_states(StateType::Int8).memory().optimizer;
    /// assert!(narrow < wide / 3);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    #[cfg(feature = "nn")]
    pub fn for_states(self, states: burn_dist_nn::optim::StateType) -> Self {
        use burn_dist_nn::optim::StateType;
        let states = match states {
            StateType::Bf16 => States {
                name: "bf16",
                bytes: |elements| StateType::Bf16.bytes(elements),
            },
            StateType::Int8 => States {
                name: "int8",
                bytes: |elements| StateType::Int8.bytes(elements),
            },
        };
        Self {
            states: Some(states),
            ..self
        }
    }

    /// The same plan for another optimizer than AdamW, which has a name and keeps so many elements of a parameter,
    /// in the parameter's type.
    ///
    /// They count on all ranks together that share the parameter, each of which has about its part of them: states, and a copy
    /// of what a [`Stepper`](crate::Stepper) steps whole.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::Strategy;
    ///
    /// let model = LinearConfig::new(256, 64).init(&Device::flex());
    /// let plan = Strategy::fsdp().plan(&model, 2)?;
    /// let adamw = plan.memory().optimizer;
    /// // Muon's momentum of the matrix, and its owner's copy; AdamW's two states of the bias.
    /// let muon = plan.for_optimizer("Muon", |_, slot| 2 * slot.len);
    /// assert!(muon.memory().optimizer <= adamw);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn for_optimizer(
        self,
        name: &'static str,
        elements: impl Fn(&UnitLayout, &Slot) -> usize,
    ) -> Self {
        let bytes = |unit: &UnitLayout| {
            let slots = unit.slots.iter().map(|slot| elements(unit, slot));
            (slots.sum::<usize>() * unit.dtype.size()).div_ceil(unit.ranks)
        };
        let bytes = self.units.iter().map(bytes).collect();
        Self {
            optimizer: Some((name, bytes)),
            ..self
        }
    }

    /// Bytes of the optimizer's states of all units on a rank.
    pub(super) fn all_states(&self) -> usize {
        let units = self.units.iter().enumerate();
        let trained = units.filter(|(_, unit)| unit.trainable);
        let bytes = trained.map(|(at, unit)| match &self.optimizer {
            Some((_, bytes)) => bytes.get(at).copied().unwrap_or(0),
            None => self.states(unit),
        });
        bytes.sum()
    }

    /// Bytes of AdamW's states of a unit on a rank.
    fn states(&self, unit: &UnitLayout) -> usize {
        match self.states {
            None => 2 * unit.bytes() / unit.ranks,
            // Blocks are counted from the start of each parameter.
            Some(States { bytes, .. }) if unit.ranks == 1 => {
                2 * unit.slots.iter().map(|s| bytes(s.len)).sum::<usize>()
            }
            Some(States { bytes, .. }) => 2 * bytes(unit.shard_len),
        }
    }
}
