//! What a frozen parameter with low-rank adapters carries.

use super::sharded::Sharded;
use burn::module::{
    Content, LoraAdapter, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param, Reparameterization,
};
use burn::tensor::{Device, Tensor};

/// The reparameterization of a frozen parameter with adapters: which parameter it is, and the adapters, whose factors are
/// sharded parameters themselves.
#[derive(Debug, Clone)]
pub(crate) struct Adapted {
    pub(crate) base: Sharded,
    pub(crate) adapter: LoraAdapter,
}

impl Adapted {
    /// The adapter with these full factors, which train.
    pub(crate) fn plain(&self, [a, b]: [Tensor<2>; 2]) -> LoraAdapter {
        let LoraAdapter {
            a: of_a,
            b: of_b,
            scale,
        } = &self.adapter;
        let plain = |param: &Param<Tensor<2>>, full: Tensor<2>| {
            let takes_gradients = param.is_require_grad();
            Param::initialized(param.id, full.detach().set_require_grad(takes_gradients))
        };
        LoraAdapter {
            a: plain(of_a, a),
            b: plain(of_b, b),
            scale: *scale,
        }
    }

    fn with(&self, adapter: LoraAdapter) -> Self {
        let base = self.base.clone();
        Self { base, adapter }
    }
}

impl Module for Adapted {
    /// Shows the walk first what it waits for, which parameter was stored, and then the factors.
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module(Sharded::NAME, "Reparameterization");
        self.base.visit(visitor);
        visitor.exit_module(Sharded::NAME, "Reparameterization");
        self.adapter.visit(visitor);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let adapter = self.adapter.clone().map(mapper);
        self.with(adapter)
    }

    fn to_device(self, device: &Device) -> Self {
        let adapter = self.adapter.clone().to_device(device);
        self.with(adapter)
    }

    fn fork(self, device: &Device) -> Self {
        let adapter = self.adapter.clone().fork(device);
        self.with(adapter)
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.adapter.collect_devices(devices)
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.with(self.adapter.valid())
    }

    fn train(self) -> Self {
        let adapter = self.adapter.clone().train();
        self.with(adapter)
    }
}

impl ModuleDisplayDefault for Adapted {
    fn content(&self, content: Content) -> Option<Content> {
        let content = self.base.content(content)?;
        let [_, rank] = self.adapter.a.lazy_shape().dims();
        content
            .add_formatted(&format!("with adapters of rank {rank}"))
            .optional()
    }
}

impl ModuleDisplay for Adapted {}
