//! The settings of an AdamW, and what its states are called by PyTorch and by Burn.

use super::tensor_files::TensorFiles;
use burn::module::ParamGroup;
use burn::optim::ModuleOptimizer;
use burn_dist::optim::AdamWConfig;
use burn_dist::{Error, Result};
use serde::{Deserialize, Serialize};

/// What the names of states in a file begin with.
pub(super) const PREFIX: &str = "optimizer.";
/// The key of the settings in a file's metadata.
const SETTINGS: &str = "adamw";

/// PyTorch's names of the moments, and the fields of Burn's record.
pub(super) const MOMENTS: [(&str, &str); 3] = [
    ("exp_avg", "momentum.moment_1"),
    ("exp_avg_sq", "momentum.moment_2"),
    (MAXIMUM, "momentum.max_moment_2"),
];
pub(super) const MAXIMUM: &str = "max_exp_avg_sq";
/// The same of the number of steps.
pub(super) const STEPS: (&str, &str) = ("step", "momentum.time");
/// The dimensions of its parameter, which Burn keeps beside each state.
pub(super) const DIMENSIONS: &str = "__rank";

/// The settings of an AdamW, under PyTorch's names and with its defaults.
///
/// The learning rate is none of them: in Burn it is an argument of each step.
///
/// ```
/// use burn_dist_models::saves::AdamWSettings;
///
/// let usual = AdamWSettings::default();
/// assert_eq!((usual.betas, usual.eps, usual.weight_decay), ([0.9, 0.999], 1e-8, 0.01));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdamWSettings {
    /// How much of the means of gradients and of their squares a step keeps.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// How much a weight decays in a step, times the learning rate.
    pub weight_decay: f64,
    /// Whether the largest second moment so far divides.
    pub amsgrad: bool,
    /// The names in the file of the parameters that do not decay, often biases and norms.
    pub no_decay: Vec<String>,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            amsgrad: false,
            no_decay: Vec::new(),
        }
    }
}

/// The name in a file of a parameter's state.
pub(super) fn state_name(state: &str, parameter: &str) -> String {
    format!("{PREFIX}{state}.{parameter}")
}

impl AdamWSettings {
    /// The settings in a file's metadata, under the key `adamw`, as JSON; none if the file has no such key.
    ///
    /// # Errors
    /// [`Error::File`] for text that is no such JSON.
    pub fn of_file(files: &TensorFiles) -> Result<Option<Self>> {
        let Some(text) = files.metadata(SETTINGS) else {
            return Ok(None);
        };
        let expected =
            "in its metadata, under `adamw`, an object with betas, eps, weight_decay and amsgrad";
        let read = serde_json::from_str(text);
        read.map(Some)
            .map_err(|e| Error::file(files.path(), expected, format!("{text:?}: {e}")))
    }

    /// An optimizer with these settings, in which a group of parameters does not decay.
    ///
    /// [`no_decay`](Self::no_decay) has names of the file, of which a model knows nothing: a program names the group.
    pub fn optimizer(&self, no_decay: Option<ParamGroup>) -> ModuleOptimizer {
        let config = AdamWConfig::new()
            .with_beta_1(self.betas[0])
            .with_beta_2(self.betas[1])
            .with_epsilon(self.eps)
            .with_weight_decay(self.weight_decay)
            .with_amsgrad(self.amsgrad);
        let optimizer = config.init();
        match no_decay {
            None => optimizer,
            Some(group) => {
                let exempt = config.with_weight_decay(0.0).build();
                optimizer.with_group(group, exempt, None)
            }
        }
    }
}
