//! The names of a Hugging Face checkpoint, from ours.
//!
//! A table rather than a rename of our fields: the modules keep names that say what they are, and what a
//! foreign file calls them is known in one place.

use burn::tensor::{Shape, TensorData};

/// What a parameter is called in a `ViTForImageClassification` checkpoint, and how it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfName {
    /// The tensor's name in the file.
    pub name: String,
    /// Whether the file holds the transpose: linear weights are `[outputs, inputs]` there and
    /// `[inputs, outputs]` in Burn.
    pub transpose: bool,
}

/// Modules outside the blocks: ours, theirs.
const MODEL: &[(&str, &str)] = &[
    (
        "embeddings.patches",
        "vit.embeddings.patch_embeddings.projection",
    ),
    ("norm", "vit.layernorm"),
    ("head", "classifier"),
];

/// Parameters that belong to no layer.
const TOKENS: &[(&str, &str)] = &[
    ("embeddings.class_token", "vit.embeddings.cls_token"),
    ("embeddings.positions", "vit.embeddings.position_embeddings"),
];

/// Modules of a block.
const BLOCK: &[(&str, &str)] = &[
    ("norm_before", "layernorm_before"),
    ("attention.query", "attention.attention.query"),
    ("attention.key", "attention.attention.key"),
    ("attention.value", "attention.attention.value"),
    ("attention.output", "attention.output.dense"),
    ("norm_after", "layernorm_after"),
    ("mlp.up", "intermediate.dense"),
    ("mlp.down", "output.dense"),
];

/// The name that a parameter of a [`Vit`](super::Vit) has in a Hugging Face checkpoint.
///
/// `path` is the module path, as Burn's visitors spell it. `None` if no such parameter exists.
///
/// # Example
///
/// ```
/// use models::vit::hf_name;
///
/// let query = hf_name("blocks.3.attention.query.weight").unwrap();
/// assert_eq!(query.name, "vit.encoder.layer.3.attention.attention.query.weight");
/// assert!(query.transpose);
/// assert_eq!(hf_name("blocks.3.attention.query.gamma"), None);
/// ```
pub fn hf_name(path: &str) -> Option<HfName> {
    if let Some(name) = lookup(TOKENS, path) {
        return Some(HfName {
            name: name.to_owned(),
            transpose: false,
        });
    }
    let (module, parameter) = path.rsplit_once('.')?;
    let name = match module.strip_prefix("blocks.") {
        Some(inner) => {
            let (index, module) = inner.split_once('.')?;
            let index: usize = index.parse().ok()?;
            format!("vit.encoder.layer.{index}.{}", lookup(BLOCK, module)?)
        }
        None => lookup(MODEL, module)?.to_owned(),
    };
    let is_norm = module.rsplit('.').next()?.starts_with("norm");
    let parameter = match (is_norm, parameter) {
        (true, "gamma") | (false, "weight") => "weight",
        (true, "beta") | (false, "bias") => "bias",
        _ => return None,
    };
    Some(HfName {
        name: format!("{name}.{parameter}"),
        // Norms have vectors, and a convolution's kernel lies alike in both.
        transpose: parameter == "weight" && !is_norm && module != "embeddings.patches",
    })
}

fn lookup(table: &[(&str, &'static str)], ours: &str) -> Option<&'static str> {
    let (_, theirs) = table.iter().find(|(key, _)| *key == ours)?;
    Some(theirs)
}

/// A matrix with its rows and columns exchanged, laid out anew; data of another rank is returned as it is.
///
/// # Example
///
/// ```
/// use burn::tensor::TensorData;
/// use models::vit::transposed;
///
/// let matrix = TensorData::from([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
/// let expected = TensorData::from([[1.0f32, 4.0], [2.0, 5.0], [3.0, 6.0]]);
/// assert_eq!(transposed(matrix), expected);
/// ```
pub fn transposed(data: TensorData) -> TensorData {
    let [rows, columns] = data.shape().as_slice() else {
        return data;
    };
    let (rows, columns) = (*rows, *columns);
    let (mut bytes, _, dtype) = data.into_parts();
    let size = dtype.size();
    let source = bytes.to_vec();
    // Written over the original, whose allocation is aligned for the dtype; a vector of bytes need not be.
    for (index, target) in bytes.chunks_exact_mut(size).enumerate() {
        let (column, row) = (index / rows, index % rows);
        let start = (row * columns + column) * size;
        target.copy_from_slice(&source[start..start + size]);
    }
    TensorData::from_bytes(bytes, Shape::new([columns, rows]), dtype)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::VitConfig;
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::{Device, Tensor};
    use std::collections::BTreeSet;

    #[derive(Default)]
    struct Paths {
        current: Vec<String>,
        all: Vec<String>,
    }

    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.current.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.current.pop();
        }
        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
            self.all.push(self.current.join("."));
        }
    }

    #[test]
    fn every_parameter_has_a_name_of_its_own() {
        let mut paths = Paths::default();
        let vit = VitConfig::tiny(10).init(&Device::flex()).unwrap();
        vit.visit(&mut paths);
        let names: BTreeSet<String> = paths
            .all
            .iter()
            .map(|path| hf_name(path).unwrap().name)
            .collect();
        assert_eq!(names.len(), paths.all.len());
        // 16 in each of 4 blocks; patches, tokens, norm and head outside.
        assert_eq!(names.len(), 4 * 16 + 8);
    }

    #[test]
    fn only_linear_weights_are_transposed() {
        let transpose = |path| hf_name(path).unwrap().transpose;
        assert!(transpose("head.weight") && transpose("blocks.0.mlp.up.weight"));
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
            "blocks.x.mlp.up.weight",
            "blocks.0.mlp.weight",
        ] {
            assert_eq!(hf_name(path), None, "{path}");
        }
    }
}
