//! An optimizer's part of a rank's file: its states, keyed by module path.
//!
//! Burn keys an optimizer's record by `ParamId`, which is random in every process.

use super::model_state::ModelState;
use crate::error::{Error, Result};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, DType, Device};
use burn_pack::{Reader, Scalar, Writer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The number that Burn keeps beside each state: the dimensions of its parameter.
const RANK: &str = "__rank";

/// The states that an optimizer keeps of the shards of one rank.
#[derive(Debug, Default)]
pub(super) struct OptimizerState {
    /// Tensors, named by parameter path and field.
    pub(super) tensors: Vec<StateTensor>,
    /// Numbers, such as the number of steps, named alike and written by [`scalar_text`].
    pub(super) scalars: BTreeMap<String, String>,
}

/// A tensor of an optimizer's state.
#[derive(Debug)]
pub(super) struct StateTensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Bytes,
}

/// A state's name, type and shape, without its elements: a rank keeps none of a parameter whose shard is
/// empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StateEntry {
    /// Parameter path and field.
    name: String,
    /// A tensor's type; nothing for a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dtype: Option<String>,
    /// A tensor's shape, where that is not the shape of the rank's shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<usize>>,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::config("optimizer state", "a record of this version of Burn", error)
}

impl OptimizerState {
    /// The states of `optimizer`, whose parameters have these paths.
    pub(super) fn of(optimizer: &ModuleOptimizer, paths: &HashMap<u64, String>) -> Result<Self> {
        let record = optimizer.into_bytes().map_err(failed)?;
        let reader = Reader::from_bytes(record).map_err(failed)?;
        let rename = |name: &str| -> Result<String> {
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

    /// The parameter path and field of every state.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let tensors = self.tensors.iter().map(|tensor| tensor.name.as_str());
        tensors.chain(self.scalars.keys().map(String::as_str))
    }

    /// The entries of all states, by name.
    pub(super) fn entries(&self, model: &ModelState) -> Vec<StateEntry> {
        let numbers = self.scalars.keys().map(|name| StateEntry::number(name));
        let mut entries: Vec<StateEntry> = numbers.collect();
        entries.extend(self.tensors.iter().map(|tensor| {
            let shape = model.shape(path_of(&tensor.name));
            let own = (shape != Some(&tensor.shape)).then(|| tensor.shape.clone());
            StateEntry {
                name: tensor.name.clone(),
                dtype: Some(tensor.dtype.name().into()),
                shape: own,
            }
        }));
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Refuses states that Burn would not load as they were.
    ///
    /// Its optimizers load every tensor in the type that the default device makes tensors in.
    pub(super) fn check_types(&self) -> Result<()> {
        let settings = Device::default().settings();
        let loaded: [DType; 2] = [settings.float_dtype.into(), settings.int_dtype.into()];
        match self.tensors.iter().find(|t| !loaded.contains(&t.dtype)) {
            None => Ok(()),
            Some(state) => Err(Error::model(
                path_of(&state.name),
                format!(
                    "has an optimizer state, {}, of type {}, which Burn would load as {}",
                    state.name,
                    state.dtype.name(),
                    loaded[0].name()
                ),
                format!(
                    "hold the model in {} (Strategy::precision computes in another type), or step \
                     it with an optimizer that keeps nothing",
                    loaded[0].name()
                ),
            )),
        }
    }

    /// Checks the states of a file against the entries it lists, and against the model's shards.
    pub(super) fn check(
        &self,
        listed: &[StateEntry],
        model: &ModelState,
        file: &Path,
    ) -> Result<()> {
        let found = self.entries(model);
        let of_name = |name: &str| {
            let find = |all: &[StateEntry]| {
                let mut all = all.iter();
                all.find(|entry| entry.name == name)
                    .map(ToString::to_string)
            };
            (find(listed), find(&found))
        };
        let mut pairs = listed
            .iter()
            .chain(&found)
            .map(|entry| of_name(&entry.name));
        if let Some((listed, found)) = pairs.find(|(listed, found)| listed != found) {
            let describe = |entry: Option<String>| entry.unwrap_or_else(|| "no such state".into());
            return Err(Error::file(file, describe(listed), describe(found)));
        }
        for (name, text) in &self.scalars {
            let shape = model.shape(path_of(name));
            let is = |rank: usize| scalar(text).and_then(|n| usize::try_from(n).ok()) == Some(rank);
            if name.ends_with(&format!("/{RANK}")) && !shape.is_some_and(|s| is(s.len())) {
                let expected = match shape {
                    Some(shape) => format!("{name}: {} dimensions", shape.len()),
                    None => format!("no state of {}, which is no parameter", path_of(name)),
                };
                return Err(Error::file(file, expected, text));
            }
        }
        Ok(())
    }

    /// Loads the states into an optimizer and checks that it holds all of them, bit for bit.
    ///
    /// # Errors
    /// [`Error::File`] for `file`, naming the first state that differs.
    pub(super) fn restore(
        self,
        optimizer: ModuleOptimizer,
        paths: &HashMap<u64, String>,
        file: &Path,
    ) -> Result<ModuleOptimizer> {
        let ids = paths.iter().map(|(id, path)| (path.clone(), *id)).collect();
        let wanted = self.digests();
        let loaded = catch_unwind(AssertUnwindSafe(|| self.into_optimizer(optimizer, &ids)));
        let loaded = loaded.unwrap_or_else(|_| {
            let expected = "states that this optimizer can load";
            Err(Error::file(file, expected, "some at which Burn panics"))
        })?;
        let found = Self::of(&loaded, paths)?.digests();
        let mut names = wanted.keys().chain(found.keys());
        match names.find(|name| wanted.get(*name) != found.get(*name)) {
            None => Ok(loaded),
            Some(name) => {
                let expected = "states that this optimizer takes as they are";
                Err(Error::file(
                    file,
                    expected,
                    format!("{name}, which it does not"),
                ))
            }
        }
    }

    /// The type, shape and checksum of every state.
    fn digests(&self) -> BTreeMap<String, String> {
        let tensors = self.tensors.iter().map(|t| {
            let sum = crc32fast::hash(&t.bytes);
            let digest = format!("{} {:?} {sum:08x}", t.dtype.name(), t.shape);
            (t.name.clone(), digest)
        });
        let scalars = self
            .scalars
            .iter()
            .map(|(name, text)| (name.clone(), text.clone()));
        tensors.chain(scalars).collect()
    }

    /// Loads the states into an optimizer whose parameters have these ids.
    fn into_optimizer(
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

impl StateEntry {
    fn number(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dtype: None,
            shape: None,
        }
    }
}

impl fmt::Display for StateEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (&self.dtype, &self.shape) {
            (None, _) => write!(f, "the number {name}"),
            (Some(dtype), None) => write!(f, "{name}: {dtype} of its parameter's shape"),
            (Some(dtype), Some(shape)) => write!(f, "{name}: {dtype} of shape {shape:?}"),
        }
    }
}

/// The parameter that a state is of.
pub(super) fn path_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(path, _)| path)
}

/// A number as text from which [`scalar`] reads exactly the same number.
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
