//! What a strategy implies for a model, computed without running anything.

use crate::comm::Op;
use crate::error::{Error, Result};
use crate::layout::{BLOCK_MULTIPLE, Parameter, Slot, UnitLayout, units};
use crate::lora;
use crate::strategy::{ReduceAt, Reshard, Strategy};
use burn::tensor::DType;
use std::collections::BTreeSet;

mod optimizer;
mod table;

use optimizer::OptimizerBytes;
pub(crate) use table::readable;

/// Units, memory, collectives and traffic of one step, as one rank sees them.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::Device};
/// use burn_dist::Strategy;
///
/// let model = LinearConfig::new(256, 64).init(&Device::flex());
/// let plan = Strategy::fsdp().plan(&model, 4)?;
/// assert_eq!(plan.parameters(), 256 * 64 + 64);
/// assert!(plan.padding() < 0.03);
/// println!("{plan}");
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    strategy: Strategy,
    size: usize,
    shard_group_size: usize,
    units: Vec<UnitLayout>,
    micro_batches: usize,
    optimizer: OptimizerBytes,
    /// Whether there is a moving average of the parameters.
    has_average: bool,
}

/// Bytes per rank, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Parameters between steps.
    pub parameters: usize,
    /// Gradients, when the step is due.
    pub gradients: usize,
    /// States of AdamW, or of the optimizer of [`Plan::for_optimizer`].
    pub optimizer: usize,
    /// A moving average of the parameters, if the plan is [for one](Plan::for_average).
    pub average: usize,
    /// Gathered units, full gradients on the way, and a weight that is made of codes or adapters, at the worst moment of a
    /// backward pass.
    pub transient: usize,
}

impl Memory {
    /// All of it; activations come on top.
    pub fn total(&self) -> usize {
        self.parameters + self.gradients + self.optimizer + self.average + self.transient
    }
}

/// How often a collective is called in a step, and what a rank sends for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// The kind.
    pub op: Op,
    /// Calls per step.
    pub calls: usize,
    /// Bytes that one rank sends per step under the ring algorithms.
    pub bytes: usize,
}

impl Plan {
    pub(crate) fn new(strategy: &Strategy, parameters: &[Parameter], size: usize) -> Result<Self> {
        let shard_group_size = strategy.shard_group_size(size)?;
        let block = strategy.block;
        if block != 1 && (block == 0 || !block.is_multiple_of(BLOCK_MULTIPLE)) {
            let expected = format!("1 or a multiple of {BLOCK_MULTIPLE}");
            return Err(Error::config("Strategy::block_aligned", expected, block));
        }
        Ok(Self {
            strategy: strategy.clone(),
            size,
            shard_group_size,
            units: units(parameters, shard_group_size, block),
            micro_batches: 1,
            optimizer: OptimizerBytes::AdamW,
            has_average: false,
        })
    }

    /// The same plan, shown for steps of so many micro-batches.
    pub fn for_micro_batches(self, micro_batches: usize) -> Self {
        Self {
            micro_batches,
            ..self
        }
    }

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
        Self {
            optimizer: OptimizerBytes::FewBits(states),
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
            optimizer: OptimizerBytes::Other { name, bytes },
            ..self
        }
    }

    /// The units, in the order of the module.
    pub fn units(&self) -> &[UnitLayout] {
        &self.units
    }

    /// Number of ranks that share one copy of the state.
    pub fn shard_group_size(&self) -> usize {
        self.shard_group_size
    }

    /// Number of elements of all parameters.
    pub fn parameters(&self) -> usize {
        self.units.iter().map(UnitLayout::elements).sum()
    }

    /// The share of the flat buffers that is padding, between 0 and 1.
    pub fn padding(&self) -> f64 {
        let (full, used) = self.units.iter().fold((0, 0), |(full, used), u| {
            (full + u.bytes(), used + u.parameter_bytes())
        });
        if full == 0 {
            0.0
        } else {
            1.0 - used as f64 / full as f64
        }
    }

    /// Whether the gradients of a unit that every rank stores whole are reduced together with those of others.
    pub(crate) fn is_joined(&self, unit: &UnitLayout) -> bool {
        let joins = self.strategy.persistence_threshold.is_some() && self.shard_group_size > 1;
        joins && unit.trainable && unit.is_replicated() && !self.strategy.is_absent(&unit.path)
    }

    /// Bytes of a unit in the type it is gathered in.
    fn gathered(&self, unit: &UnitLayout) -> usize {
        unit.len() * self.strategy.precision.computed(unit.dtype).size()
    }

    /// Bytes of a unit on their way in a gather, of all ranks together.
    fn sent_to_gather(&self, unit: &UnitLayout) -> usize {
        match self
            .strategy
            .quantized_gathers
            .filter(|_| !unit.is_quantized())
        {
            // A code for each element, and a scale of 4 bytes for each block of a shard.
            Some(block) => {
                (unit.shard_len + 4 * unit.shard_len.div_ceil(block.max(1))) * unit.ranks
            }
            None => self.gathered(unit),
        }
    }

    /// Bytes of a unit's gradients in the type they are reduced in.
    fn reduced(&self, unit: &UnitLayout) -> usize {
        unit.len() * self.strategy.precision.reduced(unit.dtype).size()
    }

    /// Bytes per rank.
    pub fn memory(&self) -> Memory {
        let sum = |wanted: &dyn Fn(&UnitLayout) -> bool| -> usize {
            self.units
                .iter()
                .filter(|u| wanted(u))
                .map(UnitLayout::bytes)
                .sum()
        };
        let share = |wanted: &dyn Fn(&UnitLayout) -> bool| -> usize {
            let units = self.units.iter().filter(|u| wanted(u));
            units.map(|u| u.bytes() / u.ranks).sum()
        };
        // What every rank stores whole is never gathered, but cast if it is computed in another type.
        let copied = |u: &UnitLayout| !u.is_replicated() || self.gathered(u) != u.bytes();
        let (units, gathered) = (&self.units, |u: &UnitLayout| self.gathered(u));
        let units = |root: bool| {
            let units = units.iter().filter(|u| copied(u));
            units.filter(move |u| u.path.is_empty() == root)
        };
        let root: usize = units(true).map(gathered).sum();
        let all = root + units(false).map(gathered).sum::<usize>();
        // Those that stay gathered from their forward to the end of backward.
        let stays = |u: &&UnitLayout| self.strategy.is_absent(&u.path);
        let absent: usize = units(false).filter(stays).map(gathered).sum();
        let block = units(false).filter(|u| !stays(u)).map(gathered).max();
        let block = block.unwrap_or(0);
        let reduced = |root: bool| units(root).filter(|u| u.trainable).map(|u| self.reduced(u));
        let root_gradients: usize = reduced(true).sum();
        let block_gradients = reduced(false).max().unwrap_or(0);
        let transient = match (
            self.shard_group_size,
            self.strategy.reshard(),
            self.strategy.reduce_at(),
        ) {
            (1, ..) | (_, Reshard::AtStep, ReduceAt::Step) => all,
            (_, Reshard::AfterForward, _) => {
                let parts = self.kept_parts(units(false).filter(|u| !stays(u)));
                2 * block + block_gradients + root + root_gradients + absent + parts
            }
            _ => all + 2 * block_gradients + root_gradients,
        };
        // Beside the sum of the micro-batches before, two reductions are under way.
        let is_summed = self.strategy.reduce_at() == ReduceAt::Backward && self.micro_batches > 1;
        let second = if is_summed && self.shard_group_size > 1 {
            block_gradients
        } else {
            0
        };
        let transient = transient
            + second
            + self.deferred_gradients()
            + self.messages()
            + self.made_for_a_layer();
        Memory {
            parameters: share(&|_| true),
            gradients: match self.strategy.reduce_at() {
                ReduceAt::Step => sum(&|u| u.trainable),
                ReduceAt::Backward => share(&|u| u.trainable),
            },
            optimizer: self.optimizer.sum(&self.units),
            average: if self.has_average {
                share(&|u| u.trainable)
            } else {
                0
            },
            transient,
        }
    }

    /// The largest weight that is made while a layer computes: of a quantized one, and its sum with adapters.
    fn made_for_a_layer(&self) -> usize {
        let slots = || self.units.iter().flat_map(|unit| &unit.slots);
        let adapted: BTreeSet<&str> = slots()
            .filter_map(|slot| lora::factor(&slot.path).map(|(weight, _)| weight))
            .collect();
        let made = slots().map(|slot| {
            let copies = usize::from(slot.quantized.is_some())
                + usize::from(adapted.contains(slot.path.as_str()));
            copies * slot.elements() * self.strategy.precision.computed(slot.dtype).size()
        });
        made.max().unwrap_or(0)
    }

    /// The codes of the largest unit that is gathered as such.
    fn messages(&self) -> usize {
        let is_coded = self.strategy.quantized_gathers.is_some() && self.shard_group_size > 1;
        let coded = |u: &&UnitLayout| is_coded && !u.is_replicated() && !u.is_quantized();
        let units = self.units.iter().filter(coded);
        units.map(|u| self.sent_to_gather(u)).max().unwrap_or(0)
    }

    /// What a rank keeps of these units between forward and backward, to gather them again over fewer ranks.
    fn kept_parts<'a>(&self, units: impl Iterator<Item = &'a UnitLayout>) -> usize {
        let group = self.strategy.regather_group_size(self.shard_group_size);
        if group == self.shard_group_size {
            0
        } else {
            units.map(|u| self.sent_to_gather(u) / group).sum()
        }
    }

    /// Whole gradients that wait for the end of a backward, where the strategy keeps none until the step, and the
    /// buffer in which small ones are reduced together.
    fn deferred_gradients(&self) -> usize {
        let of = |wanted: &dyn Fn(&UnitLayout) -> bool| -> usize {
            let units = self.units.iter().filter(|u| u.trainable && wanted(u));
            units.map(UnitLayout::bytes).sum()
        };
        let joined = of(&|u| self.is_joined(u));
        match self.strategy.reduce_at() {
            ReduceAt::Step => joined,
            ReduceAt::Backward => 2 * joined + of(&|u| self.strategy.is_absent(&u.path)),
        }
    }

    /// The collectives of one step with `micro_batches` backward passes, kind by kind; a global
    /// norm adds one all-reduce of 8 bytes where parameters are sharded.
    pub fn traffic(&self, micro_batches: usize) -> Vec<Traffic> {
        let replicas = self.size / self.shard_group_size;
        let ring = |bytes: usize, ranks: usize| bytes * (ranks - 1) / ranks;
        let mut rows = Vec::new();
        let mut row = |op: Op, per_unit: &dyn Fn(&UnitLayout) -> (usize, usize)| {
            let (calls, bytes) = self
                .units
                .iter()
                .map(per_unit)
                .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            if calls > 0 {
                rows.push(Traffic { op, calls, bytes });
            }
        };
        let reductions = match self.strategy.reduce_at() {
            ReduceAt::Step => 1,
            ReduceAt::Backward => micro_batches,
        };
        if self.shard_group_size > 1 {
            let regather = self.strategy.regather_group_size(self.shard_group_size);
            row(Op::AllGather, &|u| {
                let (first, again) = match self.strategy.reshard() {
                    _ if u.is_replicated() => (0, 0),
                    Reshard::AtStep | Reshard::AfterLastBackward => (1, 0),
                    Reshard::AfterBackward => (micro_batches, 0),
                    Reshard::AfterForward if u.path.is_empty() => (micro_batches, 0),
                    Reshard::AfterForward if self.strategy.is_absent(&u.path) => (micro_batches, 0),
                    Reshard::AfterForward => (micro_batches, micro_batches),
                };
                let bytes = self.sent_to_gather(u);
                let sent =
                    first * ring(bytes, self.shard_group_size) + again * ring(bytes, regather);
                (first + again, sent)
            });
            row(Op::ReduceScatter, &|u| {
                if u.trainable && !u.is_replicated() {
                    (
                        reductions,
                        reductions * ring(self.reduced(u), self.shard_group_size),
                    )
                } else {
                    (0, 0)
                }
            });
        }
        // A call for each unit but those that are reduced together, of which each type has one.
        let mut all_reduced: Vec<(usize, bool)> = Vec::new();
        let mut joined: Vec<(DType, usize)> = Vec::new();
        for u in self.units.iter().filter(|u| u.trainable) {
            if !self.is_joined(u) {
                all_reduced.push((self.reduced(u) / u.ranks, u.is_replicated()));
                continue;
            }
            match joined.iter_mut().find(|(dtype, _)| *dtype == u.dtype) {
                Some((_, bytes)) => *bytes += self.reduced(u),
                None => joined.push((u.dtype, self.reduced(u))),
            }
        }
        all_reduced.extend(joined.into_iter().map(|(_, bytes)| (bytes, true)));
        let (mut calls, mut bytes) = (0, 0);
        for (len, is_whole) in all_reduced {
            if is_whole && self.shard_group_size > 1 {
                calls += reductions;
                bytes += reductions * ring(2 * len, self.shard_group_size);
            }
            if replicas > 1 {
                calls += 1;
                bytes += ring(2 * len, replicas);
            }
        }
        let absent = self.units.iter().filter(|u| u.trainable);
        let absent = absent.filter(|u| self.strategy.is_absent(&u.path));
        let present: usize = absent.map(|u| u.slots.len()).sum();
        if present > 0 && self.size > 1 {
            calls += reductions;
            bytes += reductions * ring(2 * present, self.size);
        }
        if calls > 0 {
            let op = Op::AllReduce;
            rows.push(Traffic { op, calls, bytes });
        }
        rows
    }
}
