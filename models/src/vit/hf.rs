//! Names of a Vision Transformer's parameters in a Hugging Face checkpoint.

use crate::hf::{HfName, Names};

/// As `ViTForImageClassification` names them.
const NAMES: Names = Names {
    parameters: &[
        ("embeddings.class_token", "vit.embeddings.cls_token"),
        ("embeddings.positions", "vit.embeddings.position_embeddings"),
    ],
    layers: &[
        (
            "embeddings.patches",
            "vit.embeddings.patch_embeddings.projection",
        ),
        ("norm", "vit.layernorm"),
        ("head", "classifier"),
    ],
    blocks: "vit.encoder.layer",
    block: &[
        ("norm_before", "layernorm_before"),
        ("attention.query", "attention.attention.query"),
        ("attention.key", "attention.attention.key"),
        ("attention.value", "attention.attention.value"),
        ("attention.output", "attention.output.dense"),
        ("norm_after", "layernorm_after"),
        ("mlp.linear_inner", "intermediate.dense"),
        ("mlp.linear_outer", "output.dense"),
    ],
    convolutions: &["embeddings.patches"],
};

/// The name that a parameter of a [`Vit`](super::Vit) has in a Hugging Face checkpoint.
///
/// `path` is the module path, as Burn's visitors spell it. `None` if no such parameter exists.
///
/// # Example
///
/// ```
/// use burn_dist_models::vit::hf_name;
///
/// let query = hf_name("blocks.3.attention.query.weight").unwrap();
/// assert_eq!(query.name, "vit.encoder.layer.3.attention.attention.query.weight");
/// assert!(query.transpose);
/// assert_eq!(hf_name("blocks.3.attention.query.gamma"), None);
/// ```
pub fn hf_name(path: &str) -> Option<HfName> {
    NAMES.of(path)
}

/// The module path of the parameter that a Hugging Face checkpoint calls `name`, with or without the prefix of the
/// encoder; the inverse of [`hf_name`].
///
/// # Example
///
/// ```
/// use burn_dist_models::vit::hf_path;
///
/// assert_eq!(hf_path("vit.layernorm.weight").as_deref(), Some("norm.gamma"));
/// assert_eq!(hf_path("vit.pooler.dense.weight"), None);
/// ```
pub fn hf_path(name: &str) -> Option<String> {
    NAMES
        .path(name)
        .or_else(|| NAMES.path(&format!("vit.{name}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::VitConfig;
    use crate::parameter_count::ParameterCount;
    use burn::tensor::Device;
    use std::collections::BTreeSet;

    #[test]
    fn every_parameter_has_a_distinct_name() {
        let vit = VitConfig::tiny(10).init(&Device::flex()).unwrap();
        let paths = ParameterCount::of(&vit).paths;
        let names: BTreeSet<String> = paths
            .iter()
            .map(|path| hf_name(path).unwrap().name)
            .collect();
        assert_eq!(names.len(), paths.len());
        // 16 in each of 4 blocks; patches, tokens, norm and head outside.
        assert_eq!(names.len(), 4 * 16 + 8);
        for path in paths {
            assert_eq!(hf_path(&hf_name(&path).unwrap().name), Some(path));
        }
    }

    #[test]
    fn only_linear_weights_are_transposed() {
        let transpose = |path| hf_name(path).unwrap().transpose;
        assert!(transpose("head.weight") && transpose("blocks.0.mlp.linear_inner.weight"));
        for path in [
            "head.bias",
            "norm.gamma",
            "embeddings.patches.weight",
            "embeddings.positions",
        ] {
            assert!(!transpose(path), "{path}");
        }
    }

    #[test]
    fn other_paths_have_no_name() {
        for path in [
            "",
            "norm",
            "norm.weight",
            "blocks.0",
            "blocks.x.mlp.linear_inner.weight",
            "blocks.0.mlp.weight",
        ] {
            assert_eq!(hf_name(path), None, "{path}");
        }
    }
}
