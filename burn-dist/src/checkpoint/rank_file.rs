//! A rank's file of a save: a safetensors file with its shards of the model and its optimizer states.

use super::model_state::{Elements, ModelState};
use super::optimizer::{OptimizerState, StateEntry, StateTensor, path_of};
use crate::error::{Error, Result};
use crate::file_type::{burn_type, file_type};
use crate::finite::is_finite;
use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, DType};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;

/// The header entry with the optimizer's numbers and the list of its states. It is a single entry because
/// the entries of a header are written in an order that differs from run to run.
const OPTIMIZER: &str = "optimizer";

/// The shards that a file has, by path: type and bytes.
pub(super) type Shards = BTreeMap<String, (DType, Vec<u8>)>;

/// The contents of a rank's file that is going to be written.
#[derive(Debug)]
pub(super) struct RankFile<'a> {
    model: &'a ModelState,
    elements: Elements<'a>,
    optimizer: OptimizerState,
}

impl<'a> RankFile<'a> {
    /// Reads the elements of the model and the states of `optimizer`.
    ///
    /// # Errors
    /// [`Error::Model`] for optimizer states that Burn would not load as they were.
    pub(super) fn of(model: &'a ModelState, optimizer: &ModuleOptimizer) -> Result<Self> {
        let optimizer = OptimizerState::of(optimizer, &model.paths)?;
        optimizer.check_types()?;
        Ok(Self {
            model,
            elements: model.elements()?,
            optimizer,
        })
    }

    /// The first tensor that is not finite, in module order, as a number for [`name`](Self::name).
    ///
    /// Frozen parameters are left out: no training step has changed them.
    pub(super) fn not_finite(&self) -> Option<usize> {
        let tensors = self.model.tensors.iter().zip(&self.elements).enumerate();
        let tensor = tensors
            .filter(|(_, (stored, _))| stored.trains)
            .find(|(_, (stored, bytes))| !is_finite(bytes, stored.dtype))
            .map(|(at, _)| 2 * at);
        let state = |state: &StateTensor| {
            let at = self.model.position(path_of(&state.name))?;
            (!is_finite(&state.bytes, state.dtype)).then_some(2 * at + 1)
        };
        let states = self.optimizer.tensors.iter().filter_map(state);
        tensor.into_iter().chain(states).min()
    }

    /// The name of the tensor with a number of [`not_finite`](Self::not_finite), which may be another
    /// rank's: all have the same tensors.
    pub(super) fn name(&self, number: usize) -> String {
        let stored = self.model.tensors.get(number / 2);
        let path = stored.map_or("this model", |stored| &stored.path);
        if number.is_multiple_of(2) {
            path.to_string()
        } else {
            format!("the optimizer's state of {path}")
        }
    }

    /// Writes the file, which others may read as far as the umask lets them.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::file(path, "to be written", e);
        let mut tensors = BTreeMap::new();
        for (stored, bytes) in self.model.tensors.iter().zip(&self.elements) {
            let len = bytes.len() / stored.dtype.size();
            let view = view(stored.dtype, vec![len], bytes, path)?;
            tensors.insert(stored.name.clone(), view);
        }
        for state in &self.optimizer.tensors {
            let view = view(state.dtype, state.shape.clone(), &state.bytes, path)?;
            tensors.insert(format!("optimizer/{}", state.name), view);
        }
        // The entries are listed so that a load notices a missing state.
        let listed = (&self.optimizer.scalars, self.optimizer.entries(self.model));
        let listed = serde_json::to_string(&listed).map_err(|e| failed(&e))?;
        let header = HashMap::from([(OPTIMIZER.into(), listed)]);
        let write = || {
            // The crate writes to another file first, which nobody else may read, and renames it.
            let permissions = File::create(path)?.metadata()?.permissions();
            safetensors::serialize_to_file(tensors, Some(header), path)
                .map_err(io::Error::other)?;
            let file = File::open(path)?;
            file.set_permissions(permissions)?;
            file.sync_all()
        };
        write().map_err(|e| failed(&e))
    }
}

fn view<'a>(
    dtype: DType,
    shape: Vec<usize>,
    bytes: &'a [u8],
    path: &Path,
) -> Result<TensorView<'a>> {
    let known = file_type(dtype)
        .ok_or_else(|| Error::file(path, "float or integer tensors", dtype.name()))?;
    TensorView::new(known, shape, bytes).map_err(|e| Error::file(path, "whole tensors", e))
}

/// Reads a rank's file, which must have the shards of `model` and the optimizer states that it lists.
pub(super) fn read(path: &Path, model: &ModelState) -> Result<(Shards, OptimizerState)> {
    let damaged = |e: &dyn std::fmt::Display| Error::file(path, "a rank's file of a save", e);
    let bytes = std::fs::read(path).map_err(|e| damaged(&e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let mut shards = BTreeMap::new();
    for stored in &model.tensors {
        let (name, size, dtype) = (&stored.name, stored.shard.size(), stored.dtype);
        let found = file.tensor(name).map_err(|e| damaged(&e))?;
        if found.data().len() != size || burn_type(found.dtype()) != Some(dtype) {
            let expected = format!("{name}: {size} bytes of {}", dtype.name());
            let found = format!("{} bytes of {:?}", found.data().len(), found.dtype());
            return Err(Error::file(path, expected, found));
        }
        shards.insert(stored.path.clone(), (dtype, found.data().to_vec()));
    }
    let mut states = OptimizerState::default();
    for (name, found) in file.iter() {
        if let Some(name) = name.strip_prefix("optimizer/") {
            let dtype = burn_type(found.dtype())
                .ok_or_else(|| damaged(&format!("optimizer state of type {:?}", found.dtype())))?;
            states.tensors.push(StateTensor {
                name: name.to_string(),
                dtype,
                shape: found.shape().to_vec(),
                bytes: Bytes::from_bytes_vec(found.data().to_vec()),
            });
        }
    }
    let text = header
        .metadata()
        .as_ref()
        .and_then(|all| all.get(OPTIMIZER));
    let text = text.ok_or_else(|| damaged(&"no list of the optimizer's states"))?;
    let listed: Vec<StateEntry>;
    (states.scalars, listed) = serde_json::from_str(text).map_err(|e| damaged(&e))?;
    states.check(&listed, model, path)?;
    Ok((shards, states))
}
