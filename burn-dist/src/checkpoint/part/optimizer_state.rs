//! An optimizer's states, keyed by module path.
//!
//! Burn keys an optimizer's record by `ParamId`, which is random in every process, and gives out the states of all
//! parameters at once. So that no second copy of them is in memory, they are read a few parameters at a time.

use super::scalar::{scalar, scalar_text};
use crate::error::{Error, Result};
use burn::module::{ParamGroup, ParamId};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{Bytes, DType, Device};
use burn_pack::{Reader, Writer};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The number that Burn keeps beside each state: the dimensions of its parameter.
const DIMENSIONS: &str = "__rank";

/// Some of the states that an optimizer keeps.
#[derive(Debug, Default, Clone)]
pub(in crate::checkpoint) struct OptimizerState {
    pub(in crate::checkpoint) tensors: Vec<StateTensor>,
    /// Numbers, such as the number of steps, named as the tensors and written by [`scalar_text`].
    pub(in crate::checkpoint) scalars: BTreeMap<String, String>,
}

/// A tensor of an optimizer's state.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct StateTensor {
    /// Parameter path and field.
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) dtype: DType,
    pub(in crate::checkpoint) shape: Vec<usize>,
    pub(in crate::checkpoint) bytes: Bytes,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::config("optimizer state", "a record of this version of Burn", error)
}

/// Fails if an optimizer has a state of a parameter that is not among those with these paths.
pub(in crate::checkpoint) fn check_parameters(
    optimizer: &ModuleOptimizer,
    paths: &HashMap<u64, String>,
) -> Result<()> {
    let known = paths.keys().map(|id| ParamId::from(*id)).collect();
    let others = without(optimizer, ParamGroup::from_ids(known));
    OptimizerState::of(&others, paths).map(drop)
}

/// The optimizer without the states of a group of parameters.
fn without(optimizer: &ModuleOptimizer, group: ParamGroup) -> ModuleOptimizer {
    // Burn drops the states of parameters that get an optimizer of their own.
    let none = SgdConfig::new().build();
    optimizer.clone().with_group(group, none, None)
}

impl OptimizerState {
    /// The states of the parameters with these ids.
    pub(in crate::checkpoint) fn of_some(
        optimizer: &ModuleOptimizer,
        ids: Vec<ParamId>,
        paths: &HashMap<u64, String>,
    ) -> Result<Self> {
        let others = ParamGroup::all().exclude(ParamGroup::from_ids(ids));
        Self::of(&without(optimizer, others), paths)
    }

    /// All states of `optimizer`, whose parameters have these paths.
    pub(in crate::checkpoint) fn of(
        optimizer: &ModuleOptimizer,
        paths: &HashMap<u64, String>,
    ) -> Result<Self> {
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
    pub(in crate::checkpoint) fn names(&self) -> impl Iterator<Item = &str> {
        let tensors = self.tensors.iter().map(|tensor| tensor.name.as_str());
        tensors.chain(self.scalars.keys().map(String::as_str))
    }

    /// Refuses states that Burn would not load as they were.
    ///
    /// Its optimizers load every tensor in the type that the default device makes tensors in.
    pub(in crate::checkpoint) fn check_types(&self) -> Result<()> {
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

    /// Loads the states into an optimizer.
    ///
    /// # Errors
    /// [`Error::Config`] naming a state that this optimizer would not take as it is.
    pub(in crate::checkpoint) fn restore(
        self,
        optimizer: ModuleOptimizer,
        paths: &HashMap<u64, String>,
    ) -> Result<ModuleOptimizer> {
        self.check_types()?;
        let ids = paths.iter().map(|(id, path)| (path.clone(), *id)).collect();
        self.try_small(&optimizer, paths, &ids)?;
        self.into_optimizer(optimizer, &ids)
    }

    /// Loads states of these names and types but of one element each, and looks whether all came through: that
    /// decides for the large ones, which would have to be copied out of the optimizer again.
    fn try_small(
        &self,
        optimizer: &ModuleOptimizer,
        paths: &HashMap<u64, String>,
        ids: &HashMap<String, u64>,
    ) -> Result<()> {
        let small = Self {
            tensors: self.tensors.iter().map(StateTensor::small).collect(),
            scalars: self.scalars.clone(),
        };
        let wanted = small.contents();
        let load = || small.into_optimizer(optimizer.clone(), ids);
        let what = "the optimizer's saved states";
        let loaded = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| {
            let expected = "states that this optimizer can load";
            Err(Error::config(what, expected, "some at which Burn panics"))
        })?;
        let found = Self::of(&loaded, paths)?.contents();
        let mut names = wanted.keys().chain(found.keys());
        match names.find(|name| wanted.get(*name) != found.get(*name)) {
            None => Ok(()),
            Some(name) => {
                let expected = "states that this optimizer takes as they are";
                let found = format!("{name}, which it does not");
                Err(Error::config(what, expected, found))
            }
        }
    }

    /// The type, dimensions and elements of every state.
    fn contents(&self) -> BTreeMap<String, String> {
        let tensors = self.tensors.iter().map(|t| {
            let content = format!("{} {:?} {:?}", t.dtype.name(), t.shape, &t.bytes[..]);
            (t.name.clone(), content)
        });
        let scalars = self.scalars.iter();
        let scalars = scalars.map(|(name, text)| (name.clone(), text.clone()));
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

impl StateTensor {
    /// One of the same name, type and dimensions, with a single element.
    fn small(&self) -> Self {
        let shape = vec![1; self.shape.len()];
        let bytes = (1..=self.dtype.size() as u8).collect();
        Self {
            name: self.name.clone(),
            dtype: self.dtype,
            shape,
            bytes: Bytes::from_bytes_vec(bytes),
        }
    }
}

/// The parameter that a state is of.
pub(in crate::checkpoint) fn path_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(path, _)| path)
}

/// The number of dimensions of a state's parameter, if that is what this one says.
pub(in crate::checkpoint) fn dimensions(name: &str, text: &str) -> Option<usize> {
    let field = name.split_once('/').map(|(_, field)| field);
    let number = (field == Some(DIMENSIONS)).then(|| scalar(text))?;
    usize::try_from(number?).ok()
}
