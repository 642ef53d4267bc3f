//! The golden file: what a reference implementation computed, and how exactly it could.

#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod alone;
pub mod subject;
pub mod wanted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// All tensors of a golden file by name, and the description that came with them.
#[derive(Debug)]
pub struct Golden {
    path: PathBuf,
    tensors: BTreeMap<String, TensorData>,
    info: Value,
}

impl Golden {
    /// Reads `<folder>/<name>.safetensors` and `<folder>/<name>.json`.
    pub fn read(folder: impl AsRef<Path>, name: &str) -> Self {
        let file = |extension: &str| {
            let path = folder.as_ref().join(format!("{name}.{extension}"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let bytes = file("safetensors");
        let tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                let dtype = match view.dtype() {
                    Dtype::F32 => DType::F32,
                    Dtype::F64 => DType::F64,
                    Dtype::I64 => DType::I64,
                    other => panic!("{name}: unexpected type {other:?}"),
                };
                let shape = view.shape().to_vec();
                let data = TensorData::from_bytes_vec(view.data().to_vec(), shape, dtype);
                (name.to_owned(), data)
            })
            .collect();
        Self {
            path: folder.as_ref().join(format!("{name}.safetensors")),
            tensors,
            info: serde_json::from_slice(&file("json")).unwrap(),
        }
    }

    /// The file with the tensors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn data(&self, name: &str) -> TensorData {
        let data = self.tensors.get(name);
        data.unwrap_or_else(|| panic!("no tensor `{name}`")).clone()
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The values of a tensor in f64.
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.data(name).convert::<f64>().try_to_vec().unwrap()
    }

    /// The tensors whose name starts with `prefix`, under the rest of their name.
    pub fn group(&self, prefix: &str) -> BTreeMap<String, Vec<f64>> {
        self.tensors
            .keys()
            .filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), self.values(name))))
            .collect()
    }

    /// A size of the model.
    pub fn size(&self, field: &str) -> usize {
        self.info["config"][field].as_u64().unwrap() as usize
    }

    /// A number of the description, by its path: `optimizer.lr`.
    pub fn number(&self, path: &str) -> f64 {
        let value = path
            .split('.')
            .fold(&self.info, |value, field| &value[field]);
        value
            .as_f64()
            .unwrap_or_else(|| panic!("no number `{path}`"))
    }

    /// The largest difference between the reference's own f32 and f64 runs.
    pub fn rounding(&self, group: &str) -> f64 {
        self.number(&format!("f32_vs_f64.{group}"))
    }

    /// Parameters whose true gradient is zero, so that AdamW steps by rounding noise.
    pub fn zero_grad(&self) -> Vec<&str> {
        let names = self.info["zero_grad"].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap()).collect()
    }
}

/// The largest difference between two tensors, element by element.
pub fn difference(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(theirs);
    pairs.fold(0.0, |max, (a, b)| {
        let difference = (a - b).abs();
        assert!(difference.is_finite());
        f64::max(max, difference)
    })
}
