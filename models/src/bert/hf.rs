//! Names of BERT's parameters in Hugging Face checkpoints.

use super::Family;
use crate::hf::{HfName, Names};

/// `BertModel`, `BertForSequenceClassification` and `BertForMaskedLM`.
const BERT: Names = Names {
    parameters: &[
        ("embeddings.words", "embeddings.word_embeddings.weight"),
        (
            "embeddings.positions",
            "embeddings.position_embeddings.weight",
        ),
        (
            "embeddings.types",
            "embeddings.token_type_embeddings.weight",
        ),
    ],
    layers: &[("embeddings.norm", "embeddings.LayerNorm")],
    blocks: "encoder.layer",
    block: &[
        ("attention.query", "attention.self.query"),
        ("attention.key", "attention.self.key"),
        ("attention.value", "attention.self.value"),
        ("attention.output", "attention.output.dense"),
        ("norm_attention", "attention.output.LayerNorm"),
        ("mlp.linear_inner", "intermediate.dense"),
        ("mlp.linear_outer", "output.dense"),
        ("norm_mlp", "output.LayerNorm"),
    ],
    convolutions: &[],
};

const BERT_HEADS: Names = Names {
    parameters: &[("bias", "cls.predictions.bias")],
    layers: &[
        ("pooler", "bert.pooler.dense"),
        ("head", "classifier"),
        ("transform", "cls.predictions.transform.dense"),
        ("norm", "cls.predictions.transform.LayerNorm"),
    ],
    blocks: "",
    block: &[],
    convolutions: &[],
};

/// `DistilBertModel`, `DistilBertForSequenceClassification` and `DistilBertForMaskedLM`.
const DISTIL: Names = Names {
    parameters: &[
        ("embeddings.words", "embeddings.word_embeddings.weight"),
        (
            "embeddings.positions",
            "embeddings.position_embeddings.weight",
        ),
    ],
    layers: &[("embeddings.norm", "embeddings.LayerNorm")],
    blocks: "transformer.layer",
    block: &[
        ("attention.query", "attention.q_lin"),
        ("attention.key", "attention.k_lin"),
        ("attention.value", "attention.v_lin"),
        ("attention.output", "attention.out_lin"),
        ("norm_attention", "sa_layer_norm"),
        ("mlp.linear_inner", "ffn.lin1"),
        ("mlp.linear_outer", "ffn.lin2"),
        ("norm_mlp", "output_layer_norm"),
    ],
    convolutions: &[],
};

const DISTIL_HEADS: Names = Names {
    parameters: &[("bias", "vocab_projector.bias")],
    layers: &[
        ("pooler", "pre_classifier"),
        ("head", "classifier"),
        ("transform", "vocab_transform"),
        ("norm", "vocab_layer_norm"),
    ],
    blocks: "",
    block: &[],
    convolutions: &[],
};

/// The name that a parameter of a [`Bert`](super::Bert), [`BertClassifier`](super::BertClassifier) or
/// [`BertMaskedLm`](super::BertMaskedLm) has in a Hugging Face checkpoint of the same model.
///
/// `path` is the module path, as Burn's visitors spell it. `None` if no such parameter exists. A masked
/// language model's decoder is tied to its words and has no name of its own; files that nevertheless hold
/// `cls.predictions.decoder.weight` or `vocab_projector.weight` hold the words twice.
///
/// # Example
///
/// ```
/// use burn_dist_models::bert::{Family, hf_name};
///
/// let query = hf_name(Family::Bert, "bert.blocks.3.attention.query.weight").unwrap();
/// assert_eq!(query.name, "bert.encoder.layer.3.attention.self.query.weight");
/// assert!(query.transpose);
/// // A bare encoder's file has no prefix.
/// let words = hf_name(Family::DistilBert, "embeddings.words").unwrap();
/// assert_eq!(words.name, "embeddings.word_embeddings.weight");
/// assert!(!words.transpose);
/// ```
pub fn hf_name(family: Family, path: &str) -> Option<HfName> {
    let (encoder, heads, prefix) = tables(family);
    match path.strip_prefix("bert.") {
        Some(path) => encoder.of(path).map(|found| HfName {
            name: format!("{prefix}.{}", found.name),
            ..found
        }),
        None => heads.of(path).or_else(|| encoder.of(path)),
    }
}

/// The module path of the parameter that a Hugging Face checkpoint calls `name`; the inverse of [`hf_name`].
///
/// A name without the encoder's prefix is one of a bare [`Bert`](super::Bert).
///
/// # Example
///
/// ```
/// use burn_dist_models::bert::{Family, hf_path};
///
/// let path = |name| hf_path(Family::Bert, name);
/// let prefixed = path("bert.embeddings.LayerNorm.weight");
/// assert_eq!(prefixed.as_deref(), Some("bert.embeddings.norm.gamma"));
/// assert_eq!(path("embeddings.LayerNorm.weight").as_deref(), Some("embeddings.norm.gamma"));
/// // The words once more.
/// assert_eq!(path("cls.predictions.decoder.weight"), None);
/// ```
pub fn hf_path(family: Family, name: &str) -> Option<String> {
    let (encoder, heads, prefix) = tables(family);
    if let Some(path) = heads.path(name) {
        return Some(path);
    }
    let inner = name.strip_prefix(prefix);
    match inner.and_then(|inner| inner.strip_prefix('.')) {
        Some(name) => encoder.path(name).map(|path| format!("bert.{path}")),
        None => encoder.path(name),
    }
}

/// The encoder's names, those of the heads, and the prefix of an encoder that has a head.
fn tables(family: Family) -> (&'static Names, &'static Names, &'static str) {
    match family {
        Family::Bert => (&BERT, &BERT_HEADS, "bert"),
        Family::DistilBert => (&DISTIL, &DISTIL_HEADS, "distilbert"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::BertConfig;
    use crate::parameter_count::ParameterCount;
    use burn::module::Module;
    use burn::tensor::Device;
    use std::collections::BTreeSet;

    /// How many parameters a model has, each with a name of its own.
    fn named<M: Module>(family: Family, model: &M) -> usize {
        let paths = ParameterCount::of(model).paths;
        let name = |path: &String| hf_name(family, path).unwrap().name;
        let names: BTreeSet<String> = paths.iter().map(name).collect();
        assert_eq!(names.len(), paths.len());
        for path in &paths {
            let found = hf_path(family, &hf_name(family, path).unwrap().name);
            assert_eq!(found.as_ref(), Some(path));
        }
        names.len()
    }

    #[test]
    fn every_parameter_has_a_distinct_name() {
        let device = Device::flex();
        for (config, embeddings) in [(BertConfig::tiny(), 5), (BertConfig::distil(), 4)] {
            let config = config.with_blocks(3);
            let encoder = embeddings + 3 * 16;
            let bert = config.init(&device).unwrap();
            let classifier = config.init_classifier(2, &device).unwrap();
            let masked_lm = config.init_masked_lm(&device).unwrap();
            assert_eq!(named(config.family, &bert), encoder);
            assert_eq!(named(config.family, &classifier), encoder + 4);
            assert_eq!(named(config.family, &masked_lm), encoder + 5);
        }
    }

    #[test]
    fn only_linear_weights_are_transposed() {
        let transpose = |path| hf_name(Family::Bert, path).unwrap().transpose;
        assert!(
            transpose("bert.blocks.0.mlp.linear_inner.weight") && transpose("transform.weight")
        );
        for path in ["bert.embeddings.words", "bias", "norm.gamma", "pooler.bias"] {
            assert!(!transpose(path), "{path}");
        }
    }

    #[test]
    fn other_paths_have_no_name() {
        for path in [
            "",
            "bert",
            "bert.norm.gamma",
            "bert.pooler.weight",
            "bert.blocks.0",
            "bert.blocks.0.norm_mlp.weight",
            "embeddings.words.weight",
        ] {
            assert_eq!(hf_name(Family::Bert, path), None, "{path}");
        }
        assert_eq!(hf_name(Family::DistilBert, "bert.embeddings.types"), None);
    }
}
