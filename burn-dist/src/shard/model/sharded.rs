//! What a sharded parameter carries, and how to walk over a model and meet it.
//!
//! A parameter's `ParamId` is random, copied by clones and replaced by loading, so it identifies
//! nothing. The reparameterization does: it says which slot of which unit the parameter is. Burn
//! shows a visitor the stored shard first and then the reparameterization, as a module; the visit
//! of ours writes it to a thread-local, where the walk that is going on reads it.

use super::sharding::Sharding;
use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
    Reparameterization,
};
use burn::tensor::{Device, Tensor};
use std::cell::RefCell;
use std::sync::Arc;

/// Which parameter of which sharded model.
#[derive(Debug, Clone)]
pub(crate) struct ShardedParam {
    pub(crate) sharding: Arc<Sharding>,
    pub(crate) unit: usize,
    pub(crate) slot: usize,
}

/// The reparameterization of a parameter that a sharded model has dealt with.
#[derive(Debug, Clone)]
pub(crate) enum Sharded {
    /// The stored tensor is this rank's shard.
    Shard(ShardedParam),
    /// The strategy was told to leave it alone: the stored tensor is the parameter.
    Ignored,
}

thread_local! {
    /// The last reparameterization met by the walk that is going on in this thread.
    static MET: RefCell<Option<Sharded>> = const { RefCell::new(None) };
}

impl Module for Sharded {
    fn visit<V: ModuleVisitor>(&self, _: &mut V) {
        MET.set(Some(self.clone()));
    }

    fn map<M: ModuleMapper>(self, _: &mut M) -> Self {
        self
    }

    fn to_device(self, _: &Device) -> Self {
        self
    }

    fn fork(self, _: &Device) -> Self {
        self
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        devices
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn train(self) -> Self {
        self
    }
}

impl ModuleDisplayDefault for Sharded {
    fn content(&self, content: Content) -> Option<Content> {
        let text = match self {
            Self::Shard(param) => {
                let layout = &param.sharding.unit(param.unit).layout;
                let shape = &layout.slots[param.slot].shape;
                format!("{shape:?} of unit {}", layout.name)
            }
            Self::Ignored => "ignored".into(),
        };
        content.add_formatted(&text).optional()
    }
}

impl ModuleDisplay for Sharded {}

/// What a walk does with the float tensors of a model.
pub(crate) trait Visit {
    /// What is remembered of a tensor until it is known whether it is sharded.
    type Held;

    /// A stored tensor.
    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held;

    /// It is a sharded parameter.
    fn sharded(&mut self, path: &str, held: Self::Held, param: ShardedParam);

    /// It is none: running state, or a parameter that was never sharded.
    fn plain(&mut self, _path: &str, _held: Self::Held) {}

    /// It is a parameter that a strategy was told to ignore.
    fn ignored(&mut self, path: &str, held: Self::Held) {
        self.plain(path, held);
    }
}

/// Shows every float tensor of `module` to `visit`, in module order.
pub(crate) fn walk<M: Module, V: Visit>(module: &M, visit: &mut V) {
    let mut walk = Walk {
        visit,
        path: Vec::new(),
        held: None,
    };
    module.visit(&mut walk);
    walk.flush();
}

struct Walk<'a, V: Visit> {
    visit: &'a mut V,
    path: Vec<String>,
    held: Option<(String, V::Held)>,
}

impl<V: Visit> Walk<'_, V> {
    fn flush(&mut self) {
        if let Some((path, held)) = self.held.take() {
            self.visit.plain(&path, held);
        }
    }
}

impl<V: Visit> ModuleVisitor for Walk<'_, V> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.flush();
        let held = self.visit.hold(param);
        self.held = Some((self.path.join("."), held));
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, name: &str, _: &str) {
        self.path.pop();
        if name == Sharded::NAME
            && let Some(met) = MET.take()
            && let Some((path, held)) = self.held.take()
        {
            match met {
                Sharded::Shard(param) => self.visit.sharded(&path, held, param),
                Sharded::Ignored => self.visit.ignored(&path, held),
            }
        }
    }
}

/// Whether a parameter takes gradients, asked without initialising it: Burn makes a value that is
/// loaded into a parameter take gradients as the parameter would.
pub(crate) fn is_trainable<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    if param.is_initialized() && param.base().is_autodiff() {
        return param.is_require_grad();
    }
    let device = Device::flex().autodiff();
    let tiny = Tensor::<D>::zeros([1; D], &device);
    let id = param.id;
    param.clone().transform_for_load(tiny, id).is_require_grad()
}
