//! Running state, such as a batch norm's: one per rank in forward, one for all after a step.

use super::flat::Flat;
use super::primitive::Primitive;
use super::sharded::{Identity, Visit, walk};
use crate::comm::Label;
use crate::error::Result;
use crate::world::World;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

/// Averages running state, such as a batch norm's, over ranks; nothing happens without any.
pub(super) fn average_running_state<M: Module>(world: &World, model: &M) -> Result<()> {
    let mut plain = Plain::default();
    // Clones share running state, and making a valid one folds in what threads have noted.
    let _ = model.valid();
    walk(model, &mut plain);
    if world.size() == 1 || plain.paths.is_empty() {
        return Ok(());
    }
    let mut state = Average {
        world,
        paths: plain.paths,
        path: Vec::new(),
        result: Ok(()),
    };
    let _ = model.clone().map(&mut state);
    state.result
}

struct Average<'a> {
    world: &'a World,
    paths: Vec<String>,
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

/// The paths of the float tensors that are not sharded.
#[derive(Default)]
struct Plain {
    paths: Vec<String>,
}

impl Visit for Plain {
    type Held = ();

    fn hold<const D: usize>(&mut self, _: &Param<Tensor<D>>) {}

    fn sharded(&mut self, _: &str, (): (), _: Identity) {}

    fn plain(&mut self, path: &str, (): ()) {
        self.paths.push(path.to_string());
    }
}
