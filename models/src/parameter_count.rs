//! The parameters of a model, counted without initialising any: for the tests of configurations and names.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// All float parameters of a module.
#[derive(Default)]
pub(crate) struct ParameterCount {
    current: Vec<String>,
    /// Their paths, in the order of the module.
    pub(crate) paths: Vec<String>,
    pub(crate) elements: usize,
    pub(crate) initialized: usize,
}

impl ParameterCount {
    pub(crate) fn of<M: Module>(model: &M) -> Self {
        let mut count = Self::default();
        model.visit(&mut count);
        count
    }
}

impl ModuleVisitor for ParameterCount {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.current.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.current.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.paths.push(self.current.join("."));
        self.elements += param.lazy_shape().num_elements();
        self.initialized += usize::from(param.is_initialized());
    }
}
