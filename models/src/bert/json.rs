//! Conversion of a BERT's configuration from and to Hugging Face's `config.json`.

use serde_json::{Value, json};

use super::{BertConfig, Family};
use crate::hf::{Fields, HfConfigError, labels, written};

/// The head on top of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Nothing.
    Encoder,
    /// A classifier of texts into so many classes.
    Classifier(usize),
    /// A masked language model.
    MaskedLm,
}

impl BertConfig {
    /// The configuration that a `config.json` describes, and the number of classes it names.
    ///
    /// # Errors
    ///
    /// [`HfConfigError`] for what is neither BERT nor DistilBERT, and for a field that asks for what
    /// [`Bert`](super::Bert) does not do: another activation than the exact GELU, relative positions, a
    /// decoder.
    ///
    /// # Example
    ///
    /// ```
    /// use burn_dist_models::BertConfig;
    /// use burn_dist_models::bert::Family;
    ///
    /// let text = r#"{"model_type": "distilbert", "dim": 768, "n_layers": 6, "n_heads": 12}"#;
    /// let (config, classes) = BertConfig::from_hf(text)?;
    /// assert_eq!((config.family, config.blocks, classes), (Family::DistilBert, 6, 2));
    ///
    /// let text = r#"{"model_type": "bert", "position_embedding_type": "relative_key"}"#;
    /// assert_eq!(
    ///     BertConfig::from_hf(text).unwrap_err().to_string(),
    ///     "config.json: `position_embedding_type` is \"relative_key\": this model supports only absolute"
    /// );
    /// # Ok::<(), burn_dist_models::hf::HfConfigError>(())
    /// ```
    ///
    /// # Source
    ///
    /// `BertConfig` and `DistilBertConfig` of Hugging Face's `transformers`.
    pub fn from_hf(text: &str) -> Result<(Self, usize), HfConfigError> {
        let fields = Fields::parse(text)?;
        let config = match fields.one_of("model_type", &["bert", "distilbert"])? {
            "distilbert" => Self::from_distilbert(&fields)?,
            _ => Self::from_bert(&fields)?,
        };
        config.validate()?;
        Ok((config, fields.classes()?))
    }

    fn from_bert(fields: &Fields) -> Result<Self, HfConfigError> {
        fields.one_of("hidden_act", &["gelu"])?;
        fields.one_of("position_embedding_type", &["absolute"])?;
        fields.switch("is_decoder", false)?;
        let usual = Self::base();
        let dropout = fields.number("hidden_dropout_prob", usual.dropout)?;
        Ok(Self {
            vocab: fields.size("vocab_size", usual.vocab)?,
            positions: fields.size("max_position_embeddings", usual.positions)?,
            types: fields.size("type_vocab_size", usual.types)?,
            width: fields.size("hidden_size", usual.width)?,
            blocks: fields.size("num_hidden_layers", usual.blocks)?,
            heads: fields.size("num_attention_heads", usual.heads)?,
            mlp_width: fields.size("intermediate_size", usual.mlp_width)?,
            dropout,
            attention_dropout: fields
                .number("attention_probs_dropout_prob", usual.attention_dropout)?,
            head_dropout: fields.number("classifier_dropout", dropout)?,
            norm_eps: fields.number("layer_norm_eps", usual.norm_eps)?,
            init_std: fields.number("initializer_range", usual.init_std)?,
            ..usual
        })
    }

    fn from_distilbert(fields: &Fields) -> Result<Self, HfConfigError> {
        fields.one_of("activation", &["gelu"])?;
        let usual = Self::distil();
        Ok(Self {
            vocab: fields.size("vocab_size", usual.vocab)?,
            positions: fields.size("max_position_embeddings", usual.positions)?,
            width: fields.size("dim", usual.width)?,
            blocks: fields.size("n_layers", usual.blocks)?,
            heads: fields.size("n_heads", usual.heads)?,
            mlp_width: fields.size("hidden_dim", usual.mlp_width)?,
            dropout: fields.number("dropout", usual.dropout)?,
            attention_dropout: fields.number("attention_dropout", usual.attention_dropout)?,
            head_dropout: fields.number("seq_classif_dropout", usual.head_dropout)?,
            init_std: fields.number("initializer_range", usual.init_std)?,
            ..usual
        })
    }

    /// The `config.json` of a model of these sizes with this on top.
    pub fn to_hf(&self, head: Head) -> String {
        let (kind, name, sizes) = match self.family {
            Family::Bert => ("bert", "Bert", self.bert_fields()),
            Family::DistilBert => ("distilbert", "DistilBert", self.distilbert_fields()),
        };
        let (suffix, classes) = match head {
            Head::Encoder => ("Model", None),
            Head::Classifier(classes) => ("ForSequenceClassification", Some(classes)),
            Head::MaskedLm => ("ForMaskedLM", None),
        };
        let fields = [
            ("architectures", json!([format!("{name}{suffix}")])),
            ("model_type", json!(kind)),
            ("vocab_size", json!(self.vocab)),
            ("max_position_embeddings", json!(self.positions)),
            ("initializer_range", json!(self.init_std)),
            ("pad_token_id", json!(0)),
        ];
        let labels = classes.map(labels).into_iter().flatten();
        written(fields.into_iter().chain(sizes).chain(labels))
    }

    fn bert_fields(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("type_vocab_size", json!(self.types)),
            ("hidden_size", json!(self.width)),
            ("num_hidden_layers", json!(self.blocks)),
            ("num_attention_heads", json!(self.heads)),
            ("intermediate_size", json!(self.mlp_width)),
            ("hidden_act", json!("gelu")),
            ("position_embedding_type", json!("absolute")),
            ("hidden_dropout_prob", json!(self.dropout)),
            (
                "attention_probs_dropout_prob",
                json!(self.attention_dropout),
            ),
            ("classifier_dropout", json!(self.head_dropout)),
            ("layer_norm_eps", json!(self.norm_eps)),
        ]
    }

    fn distilbert_fields(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("dim", json!(self.width)),
            ("n_layers", json!(self.blocks)),
            ("n_heads", json!(self.heads)),
            ("hidden_dim", json!(self.mlp_width)),
            ("activation", json!("gelu")),
            ("dropout", json!(self.dropout)),
            ("attention_dropout", json!(self.attention_dropout)),
            ("seq_classif_dropout", json!(self.head_dropout)),
        ]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_written_config_json_is_read_again() {
        let configs = [
            BertConfig::mini()
                .with_vocab(99)
                .with_head_dropout(0.3)
                .with_types(3),
            BertConfig::distil()
                .with_positions(77)
                .with_attention_dropout(0.05),
        ];
        for config in configs {
            for head in [Head::Encoder, Head::Classifier(4), Head::MaskedLm] {
                let (read, classes) = BertConfig::from_hf(&config.to_hf(head)).unwrap();
                assert_eq!(format!("{read:?}"), format!("{config:?}"));
                assert_eq!(classes, if head == Head::Classifier(4) { 4 } else { 2 });
            }
        }
    }

    #[test]
    fn a_classifier_without_its_own_dropout_uses_that_of_the_blocks() {
        let text = r#"{"hidden_dropout_prob": 0.25, "classifier_dropout": null}"#;
        assert_eq!(BertConfig::from_hf(text).unwrap().0.head_dropout, 0.25);
    }

    #[test]
    fn unsupported_fields_are_refused_by_name() {
        for (text, field) in [
            (r#"{"model_type": "roberta"}"#, "model_type"),
            (r#"{"hidden_act": "gelu_new"}"#, "hidden_act"),
            (r#"{"is_decoder": true}"#, "is_decoder"),
            (
                r#"{"model_type": "distilbert", "activation": "relu"}"#,
                "activation",
            ),
            (r#"{"vocab_size": "many"}"#, "vocab_size"),
            // Each of these would be made into a list of blocks, or multiplied.
            (
                r#"{"num_hidden_layers": 100000000000}"#,
                "num_hidden_layers",
            ),
            (
                r#"{"model_type": "distilbert", "n_layers": 4097}"#,
                "n_layers",
            ),
            (r#"{"vocab_size": 18446744073709551615}"#, "vocab_size"),
            (r#"{"hidden_size": 1099511627776}"#, "hidden_size"),
        ] {
            let message = BertConfig::from_hf(text).unwrap_err().to_string();
            assert!(message.contains(&format!("`{field}`")), "{message}");
        }
    }
}
