//! The states of Burn's optimizers by module path.
//!
//! Burn keys an optimizer's record by `ParamId`; a save must outlive those.

use crate::error::{Error, Result};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, DType};
use burn_pack::{Reader, Scalar, Writer};
use std::collections::{BTreeMap, HashMap};

/// What an optimizer remembers of the pieces of one rank.
#[derive(Debug, Default)]
pub(super) struct States {
    /// Tensors, named by parameter path and field.
    pub(super) tensors: Vec<StateTensor>,
    /// Numbers, such as how many steps were made, named alike and written by [`scalar_text`].
    pub(super) scalars: BTreeMap<String, String>,
}

/// One tensor of them.
#[derive(Debug)]
pub(super) struct StateTensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Bytes,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::config("optimizer state", "a record of this version of Burn", error)
}

impl States {
    /// The states of `optimizer`, whose parameters have these paths.
    pub(super) fn of(optimizer: &ModuleOptimizer, paths: &HashMap<u64, String>) -> Result<Self> {
        let record = optimizer.into_bytes().map_err(failed)?;
        let reader = Reader::from_bytes(record).map_err(failed)?;
        let rename = |name: &str| {
            let path = |id: &str| paths.get(&id.parse().ok()?);
            let named = name
                .split_once('.')
                .and_then(|(id, field)| Some((path(id)?, field)));
            let (path, field) = named.ok_or_else(|| {
                Error::model(
                    "the optimizer",
                    format!("has a state, {name}, of a parameter that is not in this model"),
                    "save it with the model that it steps",
                )
            })?;
            Ok(format!("{path}/{field}"))
        };
        let scalars = reader.scalars().iter();
        let scalars = scalars
            .map(|(name, value)| Ok((rename(name)?, scalar_text(value))))
            .collect::<Result<_>>()?;
        let mut tensors = Vec::new();
        for tensor in reader.into_tensors().map_err(failed)? {
            let (name, dtype, shape, _, bytes) = tensor.into_parts().map_err(failed)?;
            tensors.push(StateTensor {
                name: rename(&name)?,
                dtype,
                shape: shape.to_vec(),
                bytes,
            });
        }
        Ok(Self { tensors, scalars })
    }

    /// Puts the states into an optimizer whose parameters have these ids.
    pub(super) fn into_optimizer(
        self,
        optimizer: ModuleOptimizer,
        ids: &HashMap<String, u64>,
    ) -> Result<ModuleOptimizer> {
        let id_of = |name: &str| -> Result<(u64, String)> {
            let (path, field) = name.split_once('/').unwrap_or((name, ""));
            let id = ids.get(path).ok_or_else(|| {
                Error::model(
                    path,
                    "has a saved optimizer state",
                    "load into the model it was saved from",
                )
            })?;
            Ok((*id, format!("{id}.{field}")))
        };
        let mut tensors = Vec::new();
        for StateTensor {
            name,
            dtype,
            shape,
            bytes,
        } in self.tensors
        {
            let (id, name) = id_of(&name)?;
            tensors.push(burn_pack::Tensor::new(name, dtype, shape, Some(id), bytes));
        }
        let mut writer = Writer::new(tensors);
        for (path, id) in ids {
            writer = writer.with_metadata(&id.to_string(), path);
        }
        for (name, text) in &self.scalars {
            let value = scalar(text).ok_or_else(|| failed(format!("{name} = {text}")))?;
            writer = writer.with_scalar(&id_of(name)?.1, value);
        }
        let record = writer.into_bytes().map_err(failed)?;
        optimizer.from_bytes(record).map_err(failed)
    }
}

/// A number as text that gives exactly it back.
fn scalar_text(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Int(x) => format!("int {x}"),
        Scalar::UInt(x) => format!("uint {x}"),
        Scalar::Float(x) => format!("float {:016x}", x.to_bits()),
        Scalar::Bool(x) => format!("bool {x}"),
    }
}

fn scalar(text: &str) -> Option<Scalar> {
    let (kind, value) = text.split_once(' ')?;
    match kind {
        "int" => value.parse().ok().map(Scalar::Int),
        "uint" => value.parse().ok().map(Scalar::UInt),
        "float" => u64::from_str_radix(value, 16)
            .ok()
            .map(|b| Scalar::Float(f64::from_bits(b))),
        "bool" => value.parse().ok().map(Scalar::Bool),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_come_back_exactly() {
        for x in [
            Scalar::Int(-3),
            Scalar::UInt(u64::MAX),
            Scalar::Float(0.1 + 0.2),
            Scalar::Bool(true),
        ] {
            assert_eq!(scalar(&scalar_text(&x)), Some(x));
        }
        assert_eq!(scalar("float x"), None);
    }
}
