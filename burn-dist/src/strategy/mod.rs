//! Which state is replicated and which is sharded, as values.
//!
//! One engine serves all strategies. They differ in over whom a unit is sharded, when a gathered unit is
//! resharded, and when gradients are reduced:
//!
//! | | sharded over | gathered unit kept | gradients reduced | traffic (x parameter bytes) |
//! |---|---|---|---|---|
//! | [`single`](Strategy::single) | nobody | - | never | 0 |
//! | [`ddp`](Strategy::ddp) | nobody | - | all-reduce, each step | 2 |
//! | [`zero1`](Strategy::zero1) | all ranks | until the step | reduce-scatter, each step | 2 |
//! | [`zero2`](Strategy::zero2) | all ranks | until the step | reduce-scatter, each backward | 2 (+1 per extra micro-batch) |
//! | [`fsdp`](Strategy::fsdp) | all ranks | for one pass | reduce-scatter, each backward | 3 per micro-batch |
//! | [`hybrid`](Strategy::hybrid) | a group | for one pass | as FSDP, then all-reduce over groups | 3 in the group, 2 / group across |
//!
//! Options change the last three columns: [`no_sync`](Strategy::no_sync) reduces each step,
//! [`reshard_after_backward`](Strategy::reshard_after_backward) keeps a unit for the micro-batches of a step,
//! [`reshard_after_forward`](Strategy::reshard_after_forward) gathers it again over fewer ranks,
//! [`persistence_threshold`](Strategy::persistence_threshold) gathers nothing small,
//! [`quantized_gathers`](Strategy::quantized_gathers) gathers a byte per element, and
//! [`absent`](Strategy::absent) reduces behind the backward. `combination` says which of them have a meaning where.

mod combination;
mod options;
mod spelling;

use crate::error::{Error, Result};
use crate::lora::LoraConfig;
use crate::pattern::names_unit;
use crate::precision::Precision;
use serde::Serialize;

/// When a gathered unit is resharded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Reshard {
    /// When its forward is over; backward gathers it again.
    AfterForward,
    /// When backward has gone through it.
    AfterBackward,
    /// When the step's last backward has gone through it, or at the step if nobody said which one that is.
    AfterLastBackward,
    /// At the step.
    AtStep,
}

/// When gradients are reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum ReduceAt {
    /// During each backward pass.
    Backward,
    /// Once a step, after the last backward pass.
    Step,
}

/// Over whom parameters, gradients and optimizer states are sharded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum ShardOver {
    /// Nobody, and there is one rank only.
    Single,
    /// Nobody: every rank has everything.
    Nobody,
    /// All ranks.
    All,
    /// Groups of so many consecutive ranks.
    Group(usize),
}

/// How the state of training is spread over ranks.
///
/// ```
/// use burn_dist::Strategy;
///
/// assert_eq!("hybrid:4".parse::<Strategy>()?, Strategy::hybrid(4));
/// assert_eq!(Strategy::fsdp().to_string(), "fsdp");
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Strategy {
    name: &'static str,
    pub(crate) over: ShardOver,
    reshard: Reshard,
    reduce_at: ReduceAt,
    no_sync: bool,
    reshard_after_backward: bool,
    /// The number of ranks over which a unit stays sharded between forward and backward.
    reshard_after_forward: Option<usize>,
    /// The largest number of elements of a parameter that every rank stores whole.
    pub(crate) persistence_threshold: Option<usize>,
    /// Elements that share a scale where parameters are gathered as int8 codes.
    pub(crate) quantized_gathers: Option<usize>,
    /// The units in which ranks may lack gradients that others have.
    pub(crate) absent: Vec<String>,
    pub(crate) units: Option<Vec<String>>,
    pub(crate) precision: Precision,
    pub(crate) recompute: bool,
    pub(crate) replicated: Vec<String>,
    pub(crate) ignored: Vec<String>,
    pub(crate) lora: Option<LoraConfig>,
    /// Steps between two comparisons of replicas; none if 0.
    pub(crate) check_every: usize,
    /// Elements of a parameter that stay on one rank together; 1 for any.
    pub(crate) block: usize,
    /// Whether units are compared with plain Burn; as the build and the environment say if none.
    pub(crate) check_units: Option<bool>,
}

impl Strategy {
    fn new(name: &'static str, over: ShardOver, reshard: Reshard, reduce_at: ReduceAt) -> Self {
        Self {
            name,
            over,
            reshard,
            reduce_at,
            no_sync: false,
            reshard_after_backward: true,
            reshard_after_forward: None,
            persistence_threshold: None,
            quantized_gathers: None,
            absent: Vec::new(),
            units: None,
            precision: Precision::full(),
            recompute: false,
            replicated: Vec::new(),
            ignored: Vec::new(),
            lora: None,
            check_every: 100,
            block: 1,
            check_units: None,
        }
    }

    /// One rank alone: plain Burn, through the same program.
    pub fn single() -> Self {
        Self::new("single", ShardOver::Single, Reshard::AtStep, ReduceAt::Step)
    }

    /// Distributed data parallel: every rank has everything, gradients are averaged.
    ///
    /// # Source
    /// Li et al., *PyTorch Distributed*, VLDB 2020.
    pub fn ddp() -> Self {
        Self::new("ddp", ShardOver::Nobody, Reshard::AtStep, ReduceAt::Step)
    }

    /// ZeRO stage 1: optimizer states are sharded; gradients are whole until the step.
    ///
    /// # Source
    /// Rajbhandari et al., *ZeRO*, SC 2020.
    pub fn zero1() -> Self {
        Self::new("zero1", ShardOver::All, Reshard::AtStep, ReduceAt::Step)
    }

    /// ZeRO stage 2: gradients are sharded too; parameters are gathered once a step.
    pub fn zero2() -> Self {
        Self::new("zero2", ShardOver::All, Reshard::AtStep, ReduceAt::Backward)
    }

    /// Fully sharded data parallel, ZeRO stage 3: parameters are sharded too and gathered unit by
    /// unit, once in forward and once in backward.
    ///
    /// # Source
    /// Zhao et al., *PyTorch FSDP*, VLDB 2023.
    pub fn fsdp() -> Self {
        Self::new(
            "fsdp",
            ShardOver::All,
            Reshard::AfterForward,
            ReduceAt::Backward,
        )
    }

    /// FSDP inside groups of `group` consecutive ranks, replicated across the groups.
    ///
    /// With one group per host, only gradients cross between hosts.
    pub fn hybrid(group: usize) -> Self {
        Self::new(
            "hybrid",
            ShardOver::Group(group),
            Reshard::AfterForward,
            ReduceAt::Backward,
        )
    }

    /// Chooses the units: modules whose parameters are gathered together.
    ///
    /// A pattern is a module path in which `*` stands for one name, such as `encoder.blocks.*`.
    /// A parameter belongs to the innermost match, or else to the root. Without a choice, every
    /// element of a `Vec` of modules is a unit.
    pub fn units(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.units = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// Stores the parameters at these paths whole on every rank, and all-reduces their gradients.
    ///
    /// A pattern is the path of a module or a parameter, in which `*` stands for one name. For small
    /// parameters that are read in many places, and layers that read the shape of what is stored.
    pub fn replicate(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.replicated.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// Leaves the parameters at these paths alone: they keep each rank's own value, get no gradient, and
    /// do not train.
    ///
    /// Patterns are as in [`replicate`](Self::replicate). Without this, a trainable parameter of a model
    /// that no sharding holds is an error of [`World::backward`](crate::World::backward).
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Tensor};
    /// use burn_dist::{Strategy, launch::Threads};
    ///
    /// Threads::new(2).run(|world| {
    ///     let layer = LinearConfig::new(4, 2).init(&world.device());
    ///     let layer = Strategy::fsdp().ignore(["bias"]).shard(layer, &world)?;
    ///     let x = Tensor::<2>::ones([8, 4], &world.device());
    ///     let grads = world.backward(layer.forward(x).mean(), &layer)?.into_params();
    ///     let bias = layer.bias.as_ref().map(|bias| bias.id);
    ///     assert!(bias.is_some_and(|bias| grads.get::<1>(bias).is_none()));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: `fully_shard(ignored_params=..)`, where they do train, each rank on its own.
    pub fn ignore(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.ignored.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// Whether the first pass of each [`unit`](crate::unit()) is compared with plain Burn, whatever the build and the
    /// environment say.
    ///
    /// Without this it is in builds with debug assertions; `BURN_DIST_CHECK_UNITS` of `1` or `0` decides otherwise.
    ///
    /// # Cost
    /// The forward of each unit twice more, once in a run, and all of the unit on each rank meanwhile.
    ///
    /// ```
    /// use burn::module::{Module, Param};
    /// use burn::tensor::{Device, Tensor};
    /// use burn_dist::prelude::*;
    ///
    /// #[derive(Module, Debug)]
    /// struct Scaled {
    ///     weight: Param<Tensor<1>>,
    /// }
    ///
    /// impl Scaled {
    ///     fn forward(&self, x: Tensor<1>) -> Tensor<1> {
    ///         let [features] = self.weight.dims(); // of a shard; `self.weight.val().dims()` would be right
    ///         x * self.weight.val() / features as f32
    ///     }
    /// }
    ///
    /// let found = Threads::new(2).run(|world| {
    ///     let model = Scaled { weight: Param::from_data([1.0, 2.0, 3.0, 4.0], &world.device()) };
    ///     let model = Strategy::fsdp().check_units(true).shard(model, &world)?;
    ///     let x = Tensor::ones([4], &world.device());
    ///     world.run(|| unit(&model, x, Scaled::forward)).map(|_| ())
    /// });
    /// assert!(found.unwrap_err().to_string().contains("weight.dims()"));
    /// ```
    pub fn check_units(mut self, check: bool) -> Self {
        self.check_units = Some(check);
        self
    }

    /// How many steps lie between two comparisons of replicas, instead of 100; 0 for never.
    ///
    /// See [`World::check_replicas`](crate::World::check_replicas). On a CPU a comparison takes some
    /// thousandths of a step (`benches/step.rs`).
    pub fn check_replicas_every(mut self, steps: usize) -> Self {
        self.check_every = steps;
        self
    }

    /// Shards parameters at multiples of `block` elements, for an optimizer that keeps its states in blocks.
    ///
    /// A parameter and each rank's part of it begin at such a multiple, so a block counted from the start of a parameter
    /// lies on one rank, and a step has the same bits on any number of them:
    /// [`LowBitAdamW`](crate::optim::LowBitAdamW) in eight bits has blocks of 256. Saves load with and without it.
    ///
    /// # Cost
    /// Padding: less than `block` elements a parameter, and less than `block` times the ranks at the end of a unit, which
    /// [`Plan::padding`](crate::Plan::padding) counts. 0.004 % of ViT-B/16 on 8 ranks, 3 % of a model 192 wide on 64.
    ///
    /// # Errors
    /// [`plan`](Self::plan) and [`shard`](Self::shard) refuse a block that is no multiple of 64.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::Strategy;
    ///
    /// let layer = LinearConfig::new(100, 30).init(&Device::flex());
    /// let plan = Strategy::fsdp().block_aligned(256).plan(&layer, 4)?;
    /// assert!((0..4).all(|rank| plan.units()[0].shard_range(0, rank).start % 256 == 0 || rank == 3));
    /// assert!(Strategy::fsdp().block_aligned(100).plan(&layer, 4).is_err());
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn block_aligned(mut self, block: usize) -> Self {
        self.block = block;
        self
    }

    /// Computes, communicates and returns in other types than those that are stored.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Keeps only the inputs of each unit for backward, which runs the unit's forward again.
    ///
    /// Every [`unit`](crate::unit()) call but the outermost is recomputed. Gradients are the same
    /// bit for bit, and so is the traffic: the gather for the second forward serves backward too.
    /// What a unit's closure computes must come out the same again, or backward returns an error
    /// that names the unit: draw dropout from a stream of your own, not from Burn's `Dropout`.
    /// Running state, such as a batch norm's, sees every batch twice, as in PyTorch.
    ///
    /// # Cost
    /// About a third more computation, for activations of one unit instead of all.
    ///
    /// # Source
    /// Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016; PyTorch:
    /// `checkpoint_wrapper`.
    pub fn recompute(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

    /// When a gathered unit is resharded.
    pub(crate) fn reshard(&self) -> Reshard {
        match (self.reshard, self.reshard_after_forward) {
            (Reshard::AfterForward, _) if !self.reshard_after_backward => {
                Reshard::AfterLastBackward
            }
            (Reshard::AfterForward, Some(1)) => Reshard::AfterBackward,
            (reshard, _) => reshard,
        }
    }

    /// The number of ranks over which backward gathers a unit again that is sharded over `ranks`.
    pub(crate) fn regather_group_size(&self, ranks: usize) -> usize {
        match self.reshard_after_forward {
            Some(group) if self.reshard() == Reshard::AfterForward => group,
            _ => ranks,
        }
    }

    /// When gradients are reduced.
    pub(crate) fn reduce_at(&self) -> ReduceAt {
        if self.no_sync {
            ReduceAt::Step
        } else {
            self.reduce_at
        }
    }

    /// Whether a parameter of so many elements in the unit at this path is stored whole because it is small.
    ///
    /// Not where ranks may lack gradients: what is stored whole is reduced together.
    pub(crate) fn is_persistent(&self, unit: &str, elements: usize) -> bool {
        let is_small = |limit| elements <= limit;
        self.persistence_threshold.is_some_and(is_small) && !self.is_absent(unit)
    }

    /// Whether ranks may lack gradients of the unit at this path, the root's being empty.
    pub(crate) fn is_absent(&self, unit: &str) -> bool {
        self.absent.iter().any(|pattern| names_unit(pattern, unit))
    }

    /// How many ranks share one copy of the state, in a world of `size` ranks.
    ///
    /// # Errors
    /// [`Error::Config`] if the strategy does not fit that many ranks, or has options that mean nothing together.
    pub(crate) fn shard_group_size(&self, size: usize) -> Result<usize> {
        self.check_combination()?;
        let ranks = self.ranks_of_a_shard_group(size)?;
        match self.reshard_after_forward {
            Some(group) if group == 0 || !ranks.is_multiple_of(group) => Err(Error::config(
                "option reshard_after_forward",
                format!(
                    "a number that divides the {ranks} rank(s) over which {} shards",
                    self.full_name()
                ),
                group,
            )),
            _ => Ok(ranks),
        }
    }

    fn ranks_of_a_shard_group(&self, size: usize) -> Result<usize> {
        match self.over {
            ShardOver::Single if size != 1 => Err(Error::config(
                "strategy single",
                "one rank (use ddp for several)",
                format!("{size} ranks"),
            )),
            ShardOver::Single | ShardOver::Nobody => Ok(1),
            ShardOver::All => Ok(size),
            ShardOver::Group(group) if group >= 1 && size.is_multiple_of(group) => Ok(group),
            ShardOver::Group(group) => Err(Error::config(
                "strategy hybrid",
                format!("a group size that divides the {size} ranks"),
                group,
            )),
        }
    }
}

impl Strategy {
    /// The name with the size of the groups.
    fn full_name(&self) -> String {
        match self.over {
            ShardOver::Group(group) => format!("{}:{group}", self.name),
            _ => self.name.to_string(),
        }
    }
}
