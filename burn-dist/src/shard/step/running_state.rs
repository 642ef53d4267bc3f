//! Running state, such as a batch norm's: one per rank in forward, one for all after a step.

use crate::comm::Label;
use crate::error::Result;
use crate::shard::memory::{Flat, Primitive};
use crate::shard::model::{MapTensors, StoredShards, map_tensors};
use crate::world::World;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use std::collections::BTreeSet;

/// Averages running state, such as a batch norm's, over ranks; nothing happens without any.
pub(crate) fn average_running_state<M: Module>(world: &World, model: &M) -> Result<()> {
    // Clones share running state, and making a valid one folds in what threads have noted.
    let _ = model.valid();
    let paths = paths(model)?;
    if world.size() == 1 || paths.is_empty() {
        return Ok(());
    }
    let mut state = Average {
        world,
        paths,
        result: Ok(()),
    };
    let _ = map_tensors(model.clone(), &mut state);
    state.result
}

/// The paths at which a model has running state, in the parts of it that were sharded.
///
/// What lies beside them is the program's own, such as a frozen teacher.
fn paths<M: Module>(model: &M) -> Result<BTreeSet<String>> {
    let stored = StoredShards::of(model)?;
    let running: BTreeSet<String> = stored.running_state().collect();
    let plain = stored.plain.into_iter().filter(|tensor| !tensor.is_ignored);
    let plain = plain.map(|tensor| tensor.path);
    Ok(plain.filter(|path| running.contains(path)).collect())
}

struct Average<'a> {
    world: &'a World,
    paths: BTreeSet<String>,
    result: Result<()>,
}

impl Average<'_> {
    fn mean<const D: usize>(&self, path: &str, tensor: Tensor<D>) -> Result<Tensor<D>> {
        let (device, dims) = (tensor.device(), tensor.dims());
        let stored = Primitive::of(tensor)?;
        let residence = stored.residence();
        let mut flat = Flat::zeros(dims.iter().product(), stored.dtype(), &residence);
        flat.put(0, &stored);
        let label = Label::new(path);
        let mut sum = flat.all_reduce(self.world.comm(), &label)?.wait()?;
        sum.scale(1.0 / self.world.size() as f64);
        let mean = sum.share().view(0, &dims).into_tensor();
        Ok(if device.is_autodiff() {
            Tensor::from_inner(mean)
        } else {
            mean
        })
    }
}

impl MapTensors for Average<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.result.is_err() || !self.paths.contains(path) {
            return param;
        }
        match self.mean(path, param.base()) {
            Ok(mean) => param.map(|_| mean),
            Err(error) => {
                self.result = Err(error);
                param
            }
        }
    }
}
