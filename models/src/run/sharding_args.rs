//! The part of the command line about the memory that a strategy takes for less traffic.

use super::values::at_least_1;
use burn_dist::Strategy;
use clap::Args;
use serde::Serialize;

/// The options of a strategy that trade memory for traffic.
#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Sharding")]
pub struct ShardingArgs {
    /// Keep gradients whole on each rank until the step's last backward, and reduce them once (zero2, fsdp, hybrid).
    #[arg(long)]
    pub no_sync: bool,

    /// Keep blocks gathered between the backward passes of a step (fsdp, hybrid).
    #[arg(long)]
    pub no_reshard_after_backward: bool,

    /// Keep a part of each block after its forward, from which N ranks gather it again; 1 keeps all of it (fsdp, hybrid).
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub reshard_after_forward: Option<usize>,

    /// Store parameters of at most so many elements whole on every rank, such as biases and norms.
    #[arg(long, value_name = "ELEMENTS")]
    pub persistence_threshold: Option<usize>,

    /// Gather weights as int8 codes, of which BLOCK share a scale; it changes results.
    #[arg(long, value_name = "BLOCK", value_parser = at_least_1)]
    pub quantized_gathers: Option<usize>,
}

impl ShardingArgs {
    /// The strategy with these options; what does not fit is an error of `shard` and `plan`.
    pub fn on(&self, strategy: Strategy) -> Strategy {
        let mut strategy = strategy
            .no_sync(self.no_sync)
            .reshard_after_backward(!self.no_reshard_after_backward);
        if let Some(group) = self.reshard_after_forward {
            strategy = strategy.reshard_after_forward(group);
        }
        if let Some(elements) = self.persistence_threshold {
            strategy = strategy.persistence_threshold(elements);
        }
        if let Some(block) = self.quantized_gathers {
            strategy = strategy.quantized_gathers(block);
        }
        strategy
    }
}
