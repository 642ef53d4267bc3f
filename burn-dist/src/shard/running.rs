//! Running state, such as a batch norm's: one per rank in forward, one for all after a step.

use super::flat::Flat;
use super::primitive::Primitive;
use super::sharded::{Identity, Visit, walk};
use super::sharding::Sharding;
use crate::comm::Label;
use crate::error::Result;
use crate::world::World;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Averages running state, such as a batch norm's, over ranks; nothing happens without any.
pub(super) fn average_running_state<M: Module>(world: &World, model: &M) -> Result<()> {
    // Clones share running state, and making a valid one folds in what threads have noted.
    let _ = model.valid();
    let paths = paths(model);
    if world.size() == 1 || paths.is_empty() {
        return Ok(());
    }
    let mut state = Average {
        world,
        paths,
        path: Vec::new(),
        result: Ok(()),
    };
    let _ = model.clone().map(&mut state);
    state.result
}

/// Where a model has running state: in the parts of it that were sharded.
///
/// What lies beside them is the program's own, such as a frozen teacher.
pub(super) fn paths<M: Module>(model: &M) -> BTreeSet<String> {
    let mut look = Look::default();
    walk(model, &mut look);
    look.plain.intersection(&look.running).cloned().collect()
}

struct Average<'a> {
    world: &'a World,
    paths: BTreeSet<String>,
    path: Vec<String>,
    result: Result<()>,
}

impl Average<'_> {
    fn mean<const D: usize>(&self, tensor: Tensor<D>) -> Result<Tensor<D>> {
        let (device, dims) = (tensor.device(), tensor.dims());
        let stored = Primitive::of(tensor)?;
        let place = stored.place();
        let mut flat = Flat::zeros(dims.iter().product(), stored.dtype(), &place);
        flat.put(0, &stored);
        let label = Label::new(self.path.join("."));
        let mut sum = flat.all_reduce(self.world.comm(), &label)?.arrive()?;
        sum.scale(1.0 / self.world.size() as f64);
        let mean = sum.share().view(0, &dims).into_tensor();
        Ok(if device.is_autodiff() {
            Tensor::from_inner(mean)
        } else {
            mean
        })
    }
}

impl ModuleMapper for Average<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.result.is_err() || !self.paths.contains(&self.path.join(".")) {
            return param;
        }
        match self.mean(param.base()) {
            Ok(mean) => param.map(|_| mean),
            Err(error) => {
                self.result = Err(error);
                param
            }
        }
    }
}

#[derive(Default)]
struct Look {
    /// The paths of the float tensors that are not sharded.
    plain: BTreeSet<String>,
    /// The paths of the running state of all that was sharded.
    running: BTreeSet<String>,
    parts: Vec<Arc<Sharding>>,
}

impl Visit for Look {
    type Held = ();

    fn hold<const D: usize>(&mut self, _: &Param<Tensor<D>>) {}

    fn sharded(&mut self, path: &str, (): (), identity: Identity) {
        let Identity {
            sharding,
            unit,
            slot,
        } = identity;
        if !self.parts.iter().any(|part| Arc::ptr_eq(part, &sharding)) {
            self.running
                .extend(sharding.buffers_beside(path, unit, slot));
            self.parts.push(sharding);
        }
    }

    fn plain(&mut self, path: &str, (): ()) {
        self.plain.insert(path.to_string());
    }

    fn ignored(&mut self, _: &str, (): ()) {}
}
