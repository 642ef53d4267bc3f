//! Reading a save into what a model stores and an optimizer takes.

use super::format::{DataFiles, SavedTensor};
use super::part::ReadState;
use crate::error::Result;
use crate::shard::MapTensors;
use burn::module::Param;
use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The files, which an optimizer reads too while it takes its states.
pub(super) type SharedFiles = Arc<Mutex<DataFiles>>;

pub(super) fn locked(files: &SharedFiles) -> MutexGuard<'_, DataFiles> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The saved states of an optimizer, in the order in which they are read.
pub(super) struct ReadSaved {
    pub(super) files: SharedFiles,
    pub(super) tensors: Vec<(SavedTensor, String, Range<usize>)>,
}

impl ReadState for ReadSaved {
    fn read(&mut self, number: usize, into: &mut [u8]) -> Result<()> {
        let (tensor, name, range) = &self.tensors[number];
        locked(&self.files).read(tensor, name, range.clone(), into)
    }
}

/// Where the save has what this rank stores, by path.
pub(super) type Targets = BTreeMap<String, Target>;

/// What a stored tensor is read from.
pub(super) struct Target {
    pub(super) saved: SavedTensor,
    /// Its name in the files.
    pub(super) name: String,
    pub(super) range: Range<usize>,
    pub(super) dtype: DType,
    pub(super) is_host: bool,
}

/// Replaces what a model stores by saved shards and running state.
pub(super) struct FillFromSave<'a> {
    pub(super) files: &'a SharedFiles,
    pub(super) targets: &'a Targets,
    pub(super) missing: Vec<String>,
    pub(super) failed: Result<()>,
}

impl FillFromSave<'_> {
    fn read(&mut self, target: &Target, into: &mut [u8]) {
        if self.failed.is_ok() {
            let (name, range) = (&target.name, target.range.clone());
            self.failed = locked(self.files).read(&target.saved, name, range, into);
        }
    }

    /// The saved elements of a small tensor; none if there are none.
    fn data<const D: usize>(&mut self, path: &str, shape: [usize; D]) -> Option<TensorData> {
        let Some(target) = self.targets.get(path) else {
            self.missing.push(path.into());
            return None;
        };
        let mut bytes = vec![0; target.range.len() * target.dtype.size()];
        self.read(target, &mut bytes);
        Some(TensorData::from_bytes_vec(bytes, shape, target.dtype))
    }

    /// The tensor with the saved elements, in the memory of the former ones where that is the process's.
    fn filled<const D: usize>(&mut self, old: Tensor<D>, target: &Target) -> Tensor<D> {
        // The type in which it is stored, which for quantized parameters is not that of the save.
        let (shape, device, dtype) = (old.shape(), old.device(), old.dtype());
        let data = if target.is_host {
            let (mut bytes, shape, dtype) = old.into_data().into_parts();
            self.read(target, &mut bytes);
            TensorData::from_bytes(bytes, shape, dtype)
        } else {
            let mut bytes = vec![0; target.range.len() * target.dtype.size()];
            self.read(target, &mut bytes);
            TensorData::from_bytes_vec(bytes, shape, dtype)
        };
        Tensor::from_data(data, (&device, dtype))
    }
}

impl MapTensors for FillFromSave<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let targets = self.targets;
        let Some(target) = targets.get(path) else {
            self.missing.push(path.into());
            return param;
        };
        param.map(|old| {
            let takes_gradients = old.is_require_grad();
            if old.is_autodiff() {
                let new = self.filled(old.inner(), target);
                Tensor::from_inner(new).set_require_grad(takes_gradients)
            } else {
                self.filled(old, target)
            }
        })
    }

    fn int<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D, Int>>,
    ) -> Param<Tensor<D, Int>> {
        match self.data(path, param.base().dims()) {
            Some(data) => param.map(|old| Tensor::from_data(data, (&old.device(), old.dtype()))),
            None => param,
        }
    }

    fn bool<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        match self.data(path, param.base().dims()) {
            Some(data) => param.map(|old| Tensor::from_data(data, &old.device())),
            None => param,
        }
    }
}
