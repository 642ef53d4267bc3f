//! What a run's `config.json` says of the machine and of what the strategy implies.

use serde_json::Value;

/// The part of a run's configuration that a report shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunConfig {
    /// The processor.
    pub processor: Option<String>,
    /// Cores.
    pub cores: Option<u64>,
    /// Memory, as the system writes it.
    pub memory: Option<String>,
    /// Versions and features, as `name version`.
    pub versions: Vec<String>,
    /// Parameters of the model.
    pub parameters: Option<u64>,
    /// Bytes of a rank that the strategy implies between steps: parameters, gradients, optimizer.
    pub planned_bytes: Option<u64>,
    /// Bytes that a rank sends in a step, as the strategy implies.
    pub planned_sent: Option<u64>,
}

impl RunConfig {
    /// Takes what is there.
    pub fn of(json: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (machine, plan) = (&json["machine"], &json["plan"]);
        let versions = json["versions"].as_object().into_iter().flatten();
        let bytes = &plan["bytes_per_rank"];
        let parts = ["parameters", "gradients", "optimizer"];
        let parts = parts.map(|part| bytes[part].as_u64());
        let sent = plan["sent_per_rank_and_step"].as_array();
        Self {
            processor: text(&machine["processor"]),
            cores: machine["cores"].as_u64(),
            memory: text(&machine["memory"]),
            versions: versions
                .filter_map(|(name, version)| Some(format!("{name} {}", version.as_str()?)))
                .collect(),
            parameters: plan["parameters"].as_u64(),
            planned_bytes: parts.into_iter().sum(),
            planned_sent: sent.and_then(|ops| ops.iter().map(|op| op["bytes"].as_u64()).sum()),
        }
    }
}
