//! The optimizer of the examples: AdamW with the groups that the command line asks for.

use super::OptimizerState;
use super::values::{factor, probability, rate};
use burn::module::{Module, ParamGroup};
use burn::optim::{ModuleOptimizer, Optimizer};
use burn_dist::optim::{AdamWConfig, Ema, Groups, LayerDecay, LowBitAdamWConfig};
use burn_dist::{Plan, Result, Strategy, World};
use clap::Args;
use serde::Serialize;

/// The arguments about the optimizer.
#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Optimizer")]
pub struct OptimizerArgs {
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

    /// What AdamW keeps its two states in; parameters stay f32. int8 shards at multiples of 256 elements.
    #[arg(long, value_enum, default_value_t = OptimizerState::F32)]
    pub optimizer_state: OptimizerState,
}

impl OptimizerArgs {
    /// AdamW for a sharded model, checked, and the rates of its layers. `blocks` is the pattern of its blocks' paths.
    ///
    /// # Errors
    /// [`Error::Model`](burn_dist::Error::Model) for a model without such blocks, or one that is not sharded.
    ///
    /// # Source
    /// Hugging Face: `Trainer.get_decay_parameter_names`; timm: `param_groups_layer_decay`.
    pub fn of<M: Module>(
        &self,
        world: &World,
        model: &M,
        blocks: &str,
    ) -> Result<(ModuleOptimizer, LayerDecay)> {
        let groups = Groups::of(model)?;
        let rates = groups.layer_decay(self.layer_decay, groups.block_depths(blocks)?)?;
        let undecayed = groups.no_decay();
        let undecayed = if self.no_decay_embeddings {
            undecayed.embeddings()
        } else {
            undecayed
        };
        let undecayed = (!self.decay_all).then(|| undecayed.group());
        let decay = self.weight_decay;
        let optimizer = if let Some(states) = self.optimizer_state.few_bits() {
            let config = LowBitAdamWConfig::new(states).with_epsilon(1e-8);
            let optimizer = config.clone().with_weight_decay(decay).init();
            let none = config.with_weight_decay(0.0).build();
            with_group(optimizer, undecayed, none)
        } else {
            let config = AdamWConfig::new().with_epsilon(1e-8);
            let optimizer = config.clone().with_weight_decay(decay).init();
            let none = config.with_weight_decay(0.0).build();
            with_group(optimizer, undecayed, none)
        };
        Ok((world.optimizer(optimizer, model)?, rates))
    }

    /// The strategy with shards that the optimizer's states fit.
    pub fn strategy(&self, strategy: Strategy) -> Strategy {
        match self.optimizer_state.few_bits() {
            Some(states) => strategy.block_aligned(states.block()),
            None => strategy,
        }
    }

    /// The plan with the bytes of the optimizer's states.
    pub fn plan(&self, plan: Plan) -> Plan {
        match self.optimizer_state.few_bits() {
            Some(states) => plan.for_states(states),
            None => plan,
        }
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
