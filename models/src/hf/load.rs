//! Weights from a Hugging Face checkpoint into a model.
//!
//! The source is a function from name to data rather than a file: the same loading serves a file in
//! memory, a mapped one, several shards, or a test.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use thiserror::Error;

use super::{HfName, transposed};

/// Why a checkpoint does not fit a model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The source lacks tensors, all of which are listed.
    #[error(
        "the checkpoint lacks {} of the model's tensors ({}): is it one of a {model}?",
        names.len(),
        names.join(", ")
    )]
    Missing {
        /// What Hugging Face calls the model that has these tensors.
        model: &'static str,
        /// Their names in the checkpoint.
        names: Vec<String>,
    },
    /// A tensor has another shape than the parameter it is meant for.
    #[error(
        "`{name}` has the shape {found:?}, but the parameter `{path}` wants {expected:?}: \
         compare the model's configuration with the checkpoint's"
    )]
    Shape {
        /// The parameter's path in the model.
        path: String,
        /// The tensor's name in the checkpoint.
        name: String,
        /// The shape the model wants, in the checkpoint's layout.
        expected: Vec<usize>,
        /// The shape the checkpoint has.
        found: Vec<usize>,
    },
    /// The model has a parameter that no Hugging Face checkpoint knows.
    #[error("the parameter `{path}` has no counterpart in a Hugging Face checkpoint")]
    Unknown {
        /// The parameter's path in the model.
        path: String,
    },
}

/// `module` with every parameter replaced by the tensor that `source` has under its name in `names`.
///
/// `source` returns data in the checkpoint's layout, or `None` if it has none. Parameters take the dtype of
/// their data, and keep their device, identity and whether they train. A parameter that was not drawn yet
/// never is.
pub(crate) fn load<M: Module>(
    module: M,
    model: &'static str,
    names: impl Fn(&str) -> Option<HfName>,
    source: impl FnMut(&str) -> Option<TensorData>,
) -> Result<M, LoadError> {
    let mut loader = Loader {
        names,
        source,
        path: Vec::new(),
        missing: Vec::new(),
        error: None,
    };
    let loaded = module.map(&mut loader);
    match loader.error {
        Some(error) => Err(error),
        None if loader.missing.is_empty() => Ok(loaded),
        None => Err(LoadError::Missing {
            model,
            names: loader.missing,
        }),
    }
}

/// Burn's mappers cannot fail, so that errors are kept until the traversal ends.
struct Loader<N, S> {
    names: N,
    source: S,
    path: Vec<String>,
    missing: Vec<String>,
    error: Option<LoadError>,
}

impl<N, S> Loader<N, S>
where
    N: Fn(&str) -> Option<HfName>,
    S: FnMut(&str) -> Option<TensorData>,
{
    /// The data of the parameter at the current path in our layout; `None` if its tensor is missing.
    fn data(&mut self, shape: &[usize]) -> Result<Option<TensorData>, LoadError> {
        let path = self.path.join(".");
        let Some(hf) = (self.names)(&path) else {
            return Err(LoadError::Unknown { path });
        };
        let Some(data) = (self.source)(&hf.name) else {
            self.missing.push(hf.name);
            return Ok(None);
        };
        let mut expected = shape.to_vec();
        if hf.transpose {
            expected.reverse();
        }
        if data.shape().as_slice() != expected {
            return Err(LoadError::Shape {
                path,
                name: hf.name,
                expected,
                found: data.shape().to_vec(),
            });
        }
        Ok(Some(if hf.transpose { transposed(data) } else { data }))
    }
}

impl<N, S> ModuleMapper for Loader<N, S>
where
    N: Fn(&str) -> Option<HfName>,
    S: FnMut(&str) -> Option<TensorData>,
{
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match self.data(param.lazy_shape().as_slice()) {
            Ok(Some(data)) => {
                let id = param.id;
                let dtype = data.dtype();
                let tensor = Tensor::from_data(data, (&param.lazy_device(), dtype));
                param.transform_for_load(tensor, id)
            }
            Ok(None) => param,
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Vit, VitConfig};
    use burn::tensor::Device;

    fn vit() -> Vit {
        VitConfig::tiny(10).init(&Device::flex()).unwrap()
    }

    #[test]
    fn a_missing_tensor_is_named_in_the_checkpoints_words() {
        let error = vit().load_hf(|_| None).unwrap_err().to_string();
        assert!(error.starts_with("the checkpoint lacks 72 of the model's tensors"));
        assert!(error.contains("vit.encoder.layer.3.output.dense.bias"));
    }

    #[test]
    fn a_wrong_shape_says_where_and_what() {
        let error = vit()
            .load_hf(|name| {
                let odd = name == "classifier.weight";
                odd.then(|| TensorData::zeros::<f32, _>([64, 10]))
            })
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`classifier.weight` has the shape [64, 10], but the parameter `head.weight` wants [10, 64]: \
             compare the model's configuration with the checkpoint's"
        );
    }
}
