//! Conversion of a Vision Transformer's configuration from and to Hugging Face's `config.json`.

use serde_json::json;

use super::VitConfig;
use crate::hf::{Fields, HfConfigError, labels, written};

impl VitConfig {
    /// The configuration that a `config.json` describes; what it leaves out is as in ViT-B/16.
    ///
    /// # Errors
    ///
    /// [`HfConfigError`] for another model than a ViT, and for a field with a value that [`Vit`](super::Vit) does not
    /// support: another activation than the exact GELU, or attention without biases.
    ///
    /// # Example
    ///
    /// ```
    /// use burn_dist_models::VitConfig;
    ///
    /// let text = r#"{"model_type": "vit", "image_size": 384, "id2label": {"0": "cat", "1": "dog"}}"#;
    /// let config = VitConfig::from_hf(text)?;
    /// assert_eq!((config.image_size, config.width, config.classes), (384, 768, 2));
    ///
    /// let other = VitConfig::from_hf(r#"{"model_type": "vit", "hidden_act": "relu"}"#);
    /// assert_eq!(
    ///     other.unwrap_err().to_string(),
    ///     "config.json: `hidden_act` is \"relu\": this model supports only gelu"
    /// );
    /// # Ok::<(), burn_dist_models::hf::HfConfigError>(())
    /// ```
    ///
    /// # Source
    ///
    /// `ViTConfig` of Hugging Face's `transformers`.
    pub fn from_hf(text: &str) -> Result<Self, HfConfigError> {
        let fields = Fields::parse(text)?;
        fields.one_of("model_type", &["vit"])?;
        fields.one_of("hidden_act", &["gelu"])?;
        fields.switch("qkv_bias", true)?;
        let usual = Self::new(fields.classes()?);
        let config = Self {
            image_size: fields.size("image_size", usual.image_size)?,
            patch_size: fields.size("patch_size", usual.patch_size)?,
            channels: fields.size("num_channels", usual.channels)?,
            width: fields.size("hidden_size", usual.width)?,
            blocks: fields.size("num_hidden_layers", usual.blocks)?,
            heads: fields.size("num_attention_heads", usual.heads)?,
            mlp_width: fields.size("intermediate_size", usual.mlp_width)?,
            dropout: fields.number("hidden_dropout_prob", usual.dropout)?,
            attention_dropout: fields
                .number("attention_probs_dropout_prob", usual.attention_dropout)?,
            // The default of transformers; published files have the field.
            norm_eps: fields.number("layer_norm_eps", 1e-12)?,
            init_std: fields.number("initializer_range", usual.init_std)?,
            ..usual
        };
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` of a `ViTForImageClassification` of these sizes.
    pub fn to_hf(&self) -> String {
        let fields = [
            ("architectures", json!(["ViTForImageClassification"])),
            ("model_type", json!("vit")),
            ("image_size", json!(self.image_size)),
            ("patch_size", json!(self.patch_size)),
            ("num_channels", json!(self.channels)),
            ("hidden_size", json!(self.width)),
            ("num_hidden_layers", json!(self.blocks)),
            ("num_attention_heads", json!(self.heads)),
            ("intermediate_size", json!(self.mlp_width)),
            ("hidden_act", json!("gelu")),
            ("qkv_bias", json!(true)),
            ("hidden_dropout_prob", json!(self.dropout)),
            (
                "attention_probs_dropout_prob",
                json!(self.attention_dropout),
            ),
            ("layer_norm_eps", json!(self.norm_eps)),
            ("initializer_range", json!(self.init_std)),
        ];
        written(fields.into_iter().chain(labels(self.classes)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_written_config_json_is_read_again() {
        let config = VitConfig::tiny(7)
            .with_norm_eps(3e-7)
            .with_dropout(0.1)
            .with_attention_dropout(0.2);
        let read = VitConfig::from_hf(&config.to_hf()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{config:?}"));
    }

    #[test]
    fn other_models_and_impossible_sizes_are_refused() {
        let message = |text: &str| VitConfig::from_hf(text).unwrap_err().to_string();
        assert!(message(r#"{"model_type": "bert"}"#).contains("`model_type` is \"bert\""));
        assert!(message(r#"{"qkv_bias": false}"#).contains("`qkv_bias` is false"));
        assert!(message(r#"{"num_attention_heads": 5}"#).contains("over 5 heads"));
    }
}
