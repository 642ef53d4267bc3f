//! What a run is, for the names and the configuration in its records.

use burn_dist::{Error, Plan, Result};
use serde::Serialize;
use serde_json::{Value, json};

/// What a run is: the model, the strategy, and whatever else its `config.json` should hold.
///
/// ```
/// use burn_dist::Strategy;
/// use burn_dist_log::Run;
/// use serde_json::json;
///
/// let run = Run::new("mlp", &Strategy::fsdp().to_string())
///     .arguments(&json!({ "lr": 1e-3 }))?
///     .peak_flops(1e11);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Run {
    /// The name of the model.
    pub model: String,
    /// The strategy, as it is given on a command line.
    pub strategy: String,
    pub(crate) arguments: Value,
    pub(crate) plan: Value,
    /// Operations per second that one rank's device can do.
    pub(crate) peak_flops: Option<f64>,
}

impl Run {
    /// A run of a model under a strategy, by their names.
    pub fn new(model: &str, strategy: &str) -> Self {
        Self {
            model: model.into(),
            strategy: strategy.into(),
            arguments: Value::Null,
            plan: Value::Null,
            peak_flops: None,
        }
    }

    /// The same with the program's arguments.
    ///
    /// # Errors
    /// [`Error::Config`] if serde cannot write them as JSON.
    pub fn arguments<A: Serialize>(mut self, arguments: &A) -> Result<Self> {
        let refused = |e| Error::config("the arguments of a run", "what JSON can hold", e);
        self.arguments = serde_json::to_value(arguments).map_err(refused)?;
        Ok(self)
    }

    /// The same with what the strategy implies for the model.
    pub fn plan(mut self, plan: &Plan, micro_batches: usize) -> Self {
        let memory = plan.memory();
        let traffic = plan.traffic(micro_batches);
        let calls = traffic
            .iter()
            .map(|t| json!({ "op": t.op.name(), "calls": t.calls, "bytes": t.bytes }));
        self.plan = json!({
            "parameters": plan.parameters(),
            "units": plan.units().len(),
            "shard_group_size": plan.shard_group_size(),
            "micro_batches": micro_batches,
            "bytes_per_rank": {
                "parameters": memory.parameters,
                "gradients": memory.gradients,
                "optimizer": memory.optimizer,
                "average": memory.average,
                "transient": memory.transient,
            },
            "sent_per_rank_and_step": calls.collect::<Vec<_>>(),
        });
        self
    }

    /// The same with the operations per second that one rank's device can do, which
    /// [`Summary::mfu`](crate::Summary::mfu) is measured by.
    pub fn peak_flops(mut self, flops: f64) -> Self {
        self.peak_flops = Some(flops);
        self
    }
}
