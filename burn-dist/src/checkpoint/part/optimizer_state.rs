//! An optimizer's states, keyed by module path.
//!
//! Burn keys an optimizer's record by `ParamId`, which is random in every process, and gives out the states of all
//! parameters at once. So that no second copy of them is in memory, they are read a few parameters at a time.

use super::scalar::{scalar, scalar_text};
use crate::error::{Error, Result};
use burn::module::{ParamGroup, ParamId};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{Bytes, DType, Device};
use burn_pack::Reader;
use std::collections::{BTreeMap, HashMap};

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

/// The error of a record that Burn does not read or write.
pub(super) fn failed(error: impl std::fmt::Display) -> Error {
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
        // Burn's order is that of the random ids.
        tensors.sort_by(|a: &StateTensor, b| a.name.cmp(&b.name));
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
        let mut tensors = self.tensors.iter();
        tensors.try_for_each(|tensor| check_type(&tensor.name, tensor.dtype))
    }
}

/// Refuses a state that Burn would not load as it was.
pub(super) fn check_type(name: &str, dtype: DType) -> Result<()> {
    let settings = Device::default().settings();
    let loaded: [DType; 2] = [settings.float_dtype.into(), settings.int_dtype.into()];
    if loaded.contains(&dtype) {
        return Ok(());
    }
    let (dtype, other) = (dtype.name(), loaded[0].name());
    Err(Error::model(
        path_of(name),
        format!(
            "has an optimizer state, {name}, of type {dtype}, which Burn would load as {other}"
        ),
        format!(
            "hold the model in {other} (Strategy::precision computes in another type), or step it \
             with an optimizer that keeps nothing"
        ),
    ))
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
