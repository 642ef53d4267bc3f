//! The optimizer of the examples, with the groups that the command line asks for.

use super::optimizer_kind::hidden_matrices;
use super::values::{factor, probability, rate};
use super::{OptimizerKind, OptimizerState};
use burn::module::{Module, ParamGroup};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{
    AdafactorConfig, AdjustLrFn, LambConfig, ModuleOptimizer, MuonConfig, Optimizer,
};
use burn_dist::optim::{AdamWConfig, Ema, Groups, LayerDecay, LowBitAdamWConfig};
use burn_dist::{Error, Plan, Result, Stepper, Strategy, World};
use clap::Args;
use serde::Serialize;

/// The arguments about the optimizer.
#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Optimizer")]
pub struct OptimizerArgs {
    /// What steps the parameters.
    #[arg(long, value_enum, default_value_t = OptimizerKind::Adamw)]
    pub optimizer: OptimizerKind,

    /// How much weights decay in a step, times the learning rate; biases and norms do not.
    #[arg(long, default_value_t = 0.01, value_parser = rate, allow_negative_numbers = true)]
    pub weight_decay: f64,

    /// Let biases and norms decay too; --no-decay-all is the same: no group without decay at all.
    #[arg(long, alias = "no-decay-all")]
    pub decay_all: bool,

    /// Let embeddings not decay either: tables, positions and the class token, as in timm.
    #[arg(long, conflicts_with = "decay_all")]
    pub no_decay_embeddings: bool,

    /// The learning rate of each block as a multiple of the one above it: the head has all of --lr, the embeddings the
    /// least; 1 gives all the same.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor, allow_negative_numbers = true)]
    pub layer_decay: f64,

    /// Keep a moving average of the parameters at this rate, such as 0.999: epochs are scored with it, and it is what is
    /// exported. The rate rises to it in the first steps.
    #[arg(long, value_name = "RATE", value_parser = probability, allow_negative_numbers = true)]
    pub ema: Option<f64>,

    /// What AdamW keeps its two states in; parameters stay f32, other optimizers have f32 alone. int8 shards at multiples of 256 elements.
    #[arg(long, value_enum, default_value_t = OptimizerState::F32)]
    pub optimizer_state: OptimizerState,
}

impl OptimizerArgs {
    /// The optimizer of a sharded model, and the rates of its layers. `blocks` is the pattern of its blocks' paths.
    ///
    /// AdamW and the rest of what a shard can be stepped by is; matrices that have to be whole are stepped by their owners.
    ///
    /// # Errors
    /// As [`World::stepper`], such as for other optimizers than AdamW under `hybrid` on GPUs;
    /// [`Error::Model`](burn_dist::Error::Model) for a model without such blocks, or one that is not sharded.
    ///
    /// # Source
    /// Hugging Face: `Trainer.get_decay_parameter_names`; timm: `param_groups_layer_decay`, and `Lamb`, whose trust ratio is
    /// that of decayed weights alone; PyTorch: `Muon(adjust_lr_fn="match_rms_adamw")`.
    pub fn of<M: Module>(
        &self,
        world: &World,
        model: &M,
        blocks: &str,
    ) -> Result<(Stepper, LayerDecay)> {
        let groups = Groups::of(model)?;
        let rates = groups.layer_decay(self.layer_decay, groups.block_depths(blocks)?)?;
        let stepper = world.stepper(self.made(&groups, blocks), model)?;
        Ok((stepper, rates))
    }

    /// The optimizer for the parameters of these groups.
    fn made(&self, groups: &Groups, blocks: &str) -> ModuleOptimizer {
        let (undecayed, decay) = (self.undecayed(groups), self.weight_decay);
        match self.optimizer {
            OptimizerKind::Adamw => self.adamw(undecayed),
            OptimizerKind::Muon => {
                // One rate and one decay for both: its steps are then as large as AdamW's.
                let muon = MuonConfig::new()
                    .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
                    .with_weight_decay(Some(WeightDecayConfig::new(decay as f32)));
                let hidden = hidden_matrices(groups, blocks);
                self.adamw(undecayed).with_group(hidden, muon.build(), None)
            }
            OptimizerKind::Lamb => {
                let lamb = LambConfig::new().with_weight_decay(decay as f32);
                // What does not decay is not scaled by its norm either.
                let none = lamb.clone().with_weight_decay(0.0);
                let none = none.with_use_trust_ratio(false).build();
                with_group(lamb.init(), undecayed, none)
            }
            OptimizerKind::Adafactor => {
                // The rate is the schedule's, as in Hugging Face's Trainer.
                let adafactor = AdafactorConfig::new()
                    .with_relative_step(false)
                    .with_scale_parameter(false)
                    .with_weight_decay(decay as f32);
                let none = adafactor.clone().with_weight_decay(0.0).build();
                with_group(adafactor.init(), undecayed, none)
            }
        }
    }

    fn adamw(&self, undecayed: Option<ParamGroup>) -> ModuleOptimizer {
        let decay = self.weight_decay;
        if let Some(states) = self.optimizer_state.few_bits() {
            let config = LowBitAdamWConfig::new(states).with_epsilon(1e-8);
            let optimizer = config.clone().with_weight_decay(decay).init();
            let none = config.with_weight_decay(0.0).build();
            with_group(optimizer, undecayed, none)
        } else {
            let config = AdamWConfig::new().with_epsilon(1e-8);
            let optimizer = config.clone().with_weight_decay(decay).init();
            let none = config.with_weight_decay(0.0).build();
            with_group(optimizer, undecayed, none)
        }
    }

    /// The parameters that do not decay, if there are to be some.
    fn undecayed(&self, groups: &Groups) -> Option<ParamGroup> {
        let undecayed = groups.no_decay();
        let undecayed = if self.no_decay_embeddings {
            undecayed.embeddings()
        } else {
            undecayed
        };
        (!self.decay_all).then(|| undecayed.group())
    }

    /// The strategy with shards that the optimizer's states fit.
    ///
    /// # Errors
    /// [`Error::Config`] for states in few bits of another optimizer than AdamW.
    pub fn strategy(&self, strategy: Strategy) -> Result<Strategy> {
        let Some(states) = self.optimizer_state.few_bits() else {
            return Ok(strategy);
        };
        if self.optimizer != OptimizerKind::Adamw {
            return Err(Error::config(
                "--optimizer-state bf16 or int8",
                "--optimizer adamw beside it, as no other optimizer keeps its states in few bits",
                format!("--optimizer {}", self.optimizer.name()),
            ));
        }
        Ok(strategy.block_aligned(states.block()))
    }

    /// The plan with the bytes of the optimizer's states, for a model that is not sharded yet. `blocks` is the pattern of its
    /// blocks' paths.
    ///
    /// # Errors
    /// [`Error::Model`](burn_dist::Error::Model) for a model without trainable parameters.
    pub fn plan<M: Module>(&self, plan: Plan, model: &M, blocks: &str) -> Result<Plan> {
        let plan = match self.optimizer_state.few_bits() {
            Some(states) => plan.for_states(states),
            None => plan,
        };
        let plan = match self.ema {
            Some(_) => plan.for_average(),
            None => plan,
        };
        let groups = Groups::of(model)?;
        let undecayed = self.undecayed(&groups);
        let hidden = hidden_matrices(&groups, blocks);
        Ok(self.optimizer.plan(plan, undecayed.as_ref(), &hidden))
    }

    /// The moving average that the command line asks for; rank 0 logs it.
    ///
    /// # Errors
    /// As [`Ema::new`].
    pub fn average<M: Module>(&self, world: &World, model: &M) -> Result<Option<Ema<M>>> {
        let Some(rate) = self.ema else {
            return Ok(None);
        };
        if world.is_chief() {
            log::info!(
                "scores and the export are those of the parameters' average, at rate {rate}"
            );
        }
        Ok(Some(Ema::new(model, rate)?.with_warmup()))
    }
}

/// An optimizer with another one for a group, if there is one.
fn with_group<O: Optimizer>(
    optimizer: ModuleOptimizer,
    group: Option<ParamGroup>,
    other: O,
) -> ModuleOptimizer {
    match group {
        Some(group) => optimizer.with_group(group, other, None),
        None => optimizer,
    }
}
