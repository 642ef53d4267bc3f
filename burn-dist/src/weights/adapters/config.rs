//! PEFT's `adapter_config.json`.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The file of the configuration.
pub(super) const FILE: &str = "adapter_config.json";

/// What PEFT writes of adapters, as far as it says how they are computed with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AdapterConfig {
    pub(super) peft_type: String,
    #[serde(default)]
    pub(super) base_model_name_or_path: Option<String>,
    #[serde(default)]
    pub(super) task_type: Option<String>,
    #[serde(default)]
    pub(super) inference_mode: bool,
    #[serde(rename = "r")]
    pub(super) rank: usize,
    #[serde(rename = "lora_alpha")]
    pub(super) alpha: f64,
    #[serde(default)]
    pub(super) lora_dropout: f64,
    #[serde(default = "none")]
    pub(super) bias: String,
    #[serde(default)]
    pub(super) fan_in_fan_out: bool,
    /// One pattern, or a list of names.
    #[serde(default)]
    pub(super) target_modules: Value,
    #[serde(default)]
    pub(super) modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, Value>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, Value>,
}

fn none() -> String {
    "none".into()
}

impl AdapterConfig {
    /// Adapters of these modules, beside others that train whole.
    pub(super) fn new(
        rank: usize,
        alpha: f64,
        target_modules: Vec<String>,
        modules_to_save: Vec<String>,
    ) -> Self {
        Self {
            peft_type: "LORA".into(),
            base_model_name_or_path: None,
            task_type: None,
            inference_mode: true,
            rank,
            alpha,
            lora_dropout: 0.0,
            bias: none(),
            fan_in_fan_out: false,
            target_modules: target_modules.into(),
            modules_to_save: (!modules_to_save.is_empty()).then_some(modules_to_save),
            use_rslora: false,
            use_dora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }

    /// # Errors
    /// [`Error::File`] if there is none, or it is of adapters that compute something else than the product of two factors.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let expected = "the configuration of LoRA adapters that PEFT writes";
        let wrong = |found: &dyn std::fmt::Display| Error::file(&path, expected, found);
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(&e))?;
        let config: Self = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
        let odd = [
            (config.peft_type != "LORA", "another peft_type"),
            (config.use_dora, "use_dora"),
            (config.use_rslora, "use_rslora"),
            (config.bias != "none", "a bias that trains"),
            (!config.rank_pattern.is_empty(), "a rank_pattern"),
            (!config.alpha_pattern.is_empty(), "an alpha_pattern"),
            (config.rank == 0, "a rank of 0"),
        ];
        match odd.into_iter().find(|(is_odd, _)| *is_odd) {
            Some((_, what)) => {
                let found = format!("{what}, which is not supported");
                Err(wrong(&found))
            }
            None => Ok(config),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let failed = |e: &dyn std::fmt::Display| Error::file(&path, "to be written", e);
        let text = serde_json::to_string_pretty(self).map_err(|e| failed(&e))?;
        std::fs::write(&path, text + "\n").map_err(|e| failed(&e))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AdapterConfig> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        AdapterConfig::read(folder.path())
    }

    #[test]
    fn what_is_written_is_read_and_keys_of_newer_versions_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let config = AdapterConfig::new(8, 16.0, vec!["query".into()], Vec::new());
        config.write(folder.path()).unwrap();
        assert_eq!(AdapterConfig::read(folder.path()).unwrap(), config);
        let found = read(r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "loftq_config": {}}"#);
        assert_eq!(found.unwrap().rank, 4);
    }

    #[test]
    fn adapters_that_compute_something_else_are_refused() {
        for (more, named) in [
            (r#""use_dora": true"#, "use_dora"),
            (r#""use_rslora": true"#, "use_rslora"),
            (r#""bias": "all""#, "bias"),
            (r#""rank_pattern": {"query": 2}"#, "rank_pattern"),
            (r#""r": 0"#, "rank of 0"),
        ] {
            let rank = if more.contains("\"r\"") {
                ""
            } else {
                r#", "r": 4"#
            };
            let text = format!(r#"{{"peft_type": "LORA", "lora_alpha": 8, {more}{rank}}}"#);
            let found = read(&text).unwrap_err().to_string();
            assert!(found.contains(named) && found.contains(FILE), "{found}");
        }
        let other = read(r#"{"peft_type": "IA3", "r": 4, "lora_alpha": 8}"#).unwrap_err();
        assert!(other.to_string().contains("peft_type"), "{other}");
        let missing = AdapterConfig::read(Path::new("/nowhere")).unwrap_err();
        assert!(missing.to_string().contains(FILE), "{missing}");
    }
}
