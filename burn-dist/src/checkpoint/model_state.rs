//! The model's part of a rank's file: shards of parameters, and running state.

use super::parameter::SavedParameter;
use crate::error::Result;
use crate::shard::{Shard, ShardedParam, Sharding, Visit, not_sharded, walk};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// The tensors that a rank stores of a model.
#[derive(Debug)]
pub(super) struct ModelState {
    /// The strategies of the parts that the model was sharded in.
    pub(super) strategies: String,
    parts: Vec<Arc<Sharding>>,
    pub(super) parameters: Vec<SavedParameter>,
    /// Shards and running state, in module order.
    pub(super) tensors: Vec<StoredTensor>,
    /// The path of each parameter's id.
    pub(super) paths: HashMap<u64, String>,
    /// The index in `tensors` of each path.
    positions: HashMap<String, usize>,
}

/// The part of a model's tensor that a rank stores: a shard of a parameter, or all of running state.
#[derive(Debug)]
pub(super) struct StoredTensor {
    /// Its name in the file.
    pub(super) name: String,
    pub(super) path: String,
    pub(super) shard: Shard,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// True for what training changes: trainable parameters and running state.
    pub(super) trains: bool,
}

/// The elements of each stored tensor, on the host.
pub(super) type Elements<'a> = Vec<Cow<'a, [u8]>>;

impl ModelState {
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) if `model` is not sharded.
    pub(super) fn of<M: Module>(model: &M) -> Result<Self> {
        let mut found = FindTensors::default();
        walk(model, &mut found);
        if found.parts.is_empty() {
            return Err(not_sharded());
        }
        let strategies = found.parts.iter().map(|part| part.strategy.to_string());
        let tensors = found.tensors.into_iter().collect::<Result<Vec<_>>>()?;
        let positions = tensors.iter().enumerate();
        let positions = positions
            .map(|(at, stored)| (stored.path.clone(), at))
            .collect();
        Ok(Self {
            strategies: strategies.collect::<Vec<_>>().join(" and "),
            parts: found.parts,
            parameters: found.parameters,
            tensors,
            paths: found.paths,
            positions,
        })
    }

    /// Forwards that each part has run in training.
    pub(super) fn forwards(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.forwards()).collect()
    }

    /// Goes on counting the forwards of each part; a save of an earlier version has no counts.
    pub(super) fn set_forwards(&self, forwards: &[u64]) {
        for (part, forwards) in self.parts.iter().zip(forwards) {
            part.set_forwards(*forwards);
        }
    }

    /// The index of a path in `tensors`.
    pub(super) fn position(&self, path: &str) -> Option<usize> {
        self.positions.get(path).copied()
    }

    /// The shape of this rank's shard of a parameter.
    pub(super) fn shape(&self, path: &str) -> Option<&Vec<usize>> {
        self.position(path).map(|at| &self.tensors[at].shape)
    }

    /// Reads all elements, from the device where they lie on one.
    pub(super) fn elements(&self) -> Result<Elements<'_>> {
        self.tensors
            .iter()
            .map(|stored| stored.shard.read())
            .collect()
    }
}

#[derive(Default)]
struct FindTensors {
    /// The shardings of the model, one for each call of `shard`.
    parts: Vec<Arc<Sharding>>,
    parameters: Vec<SavedParameter>,
    tensors: Vec<Result<StoredTensor>>,
    paths: HashMap<u64, String>,
}

/// A tensor of which is not known yet if it is sharded.
struct VisitedTensor {
    id: u64,
    dtype: DType,
    shape: Vec<usize>,
    shard: Result<Shard>,
}

impl VisitedTensor {
    fn stored(self, kind: &str, path: &str, trains: bool) -> Result<StoredTensor> {
        Ok(StoredTensor {
            name: format!("{kind}/{path}"),
            path: path.to_string(),
            shard: self.shard?,
            dtype: self.dtype,
            shape: self.shape,
            trains,
        })
    }
}

impl Visit for FindTensors {
    type Held = VisitedTensor;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> VisitedTensor {
        let stored = param.base();
        VisitedTensor {
            id: param.id.val(),
            dtype: stored.dtype(),
            shape: stored.dims().to_vec(),
            shard: Shard::of(stored),
        }
    }

    fn sharded(&mut self, path: &str, held: VisitedTensor, identity: ShardedParam) {
        let ShardedParam {
            sharding,
            unit,
            slot,
        } = identity;
        let layout = &sharding.unit(unit).layout;
        let parameter = SavedParameter::new(path, layout, slot, sharding.shard_group.size());
        self.parameters.push(parameter);
        self.paths.insert(held.id, path.to_string());
        let trainable = layout.trainable;
        self.tensors.push(held.stored("parameter", path, trainable));
        if !self.parts.iter().any(|part| Arc::ptr_eq(part, &sharding)) {
            self.parts.push(sharding);
        }
    }

    fn plain(&mut self, path: &str, held: VisitedTensor) {
        self.tensors.push(held.stored("state", path, true));
    }
}
