//! Walks over the tensors of a module, each with its path, without regard to how they are sharded.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};

/// Takes each tensor of a module with its path; what is not implemented ignores tensors of that kind.
pub(crate) trait VisitTensors {
    fn float<const D: usize>(&mut self, _path: &str, _param: &Param<Tensor<D>>) {}

    fn int<const D: usize>(&mut self, _path: &str, _param: &Param<Tensor<D, Int>>) {}

    fn bool<const D: usize>(&mut self, _path: &str, _param: &Param<Tensor<D, Bool>>) {}
}

/// Replaces each tensor of a module, given with its path; what is not implemented leaves tensors of that
/// kind as they are.
pub(crate) trait MapTensors {
    fn float<const D: usize>(&mut self, _path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param
    }

    fn int<const D: usize>(
        &mut self,
        _path: &str,
        param: Param<Tensor<D, Int>>,
    ) -> Param<Tensor<D, Int>> {
        param
    }

    fn bool<const D: usize>(
        &mut self,
        _path: &str,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        param
    }
}

/// Shows every tensor of `module` to `visit`, in module order.
pub(crate) fn visit_tensors<M: Module>(module: &M, visit: &mut impl VisitTensors) {
    module.visit(&mut WithPath::new(visit));
}

/// Maps every tensor of `module` with `map`, in module order.
pub(crate) fn map_tensors<M: Module>(module: M, map: &mut impl MapTensors) -> M {
    module.map(&mut WithPath::new(map))
}

/// Collects the names on the way to a tensor.
struct WithPath<'a, T> {
    inner: &'a mut T,
    names: Vec<String>,
}

impl<'a, T> WithPath<'a, T> {
    fn new(inner: &'a mut T) -> Self {
        Self {
            inner,
            names: Vec::new(),
        }
    }

    fn path(&self) -> String {
        self.names.join(".")
    }
}

impl<T: VisitTensors> ModuleVisitor for WithPath<'_, T> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.names.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.inner.float(&self.path(), param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.inner.int(&self.path(), param);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.inner.bool(&self.path(), param);
    }
}

impl<T: MapTensors> ModuleMapper for WithPath<'_, T> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.names.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.inner.float(&self.path(), param)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.inner.int(&self.path(), param)
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.inner.bool(&self.path(), param)
    }
}
