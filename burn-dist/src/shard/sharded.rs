//! What a sharded parameter carries, and how to walk over a model and meet it.
//!
//! A parameter's `ParamId` is random, copied by clones and replaced by loading, so it identifies
//! nothing. The reparameterization knows better: it says which slot of which unit it is. Burn
//! shows a visitor the stored piece first and then the reparameterization, as a module; ours
//! answers by leaving its identity with the walk that is going on.

use super::ops::{self, View};
use super::sharding::Sharding;
use super::source::source;
use crate::unwind::or_raise;
use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
    Reparameterization,
};
use burn::tensor::{Device, Tensor};
use std::cell::RefCell;
use std::sync::Arc;

/// Which parameter of which sharded model.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) sharding: Arc<Sharding>,
    pub(crate) unit: usize,
    pub(crate) slot: usize,
}

/// The reparameterization of a parameter that a sharded model has dealt with.
#[derive(Debug, Clone)]
pub(crate) enum Sharded {
    /// The stored tensor is this rank's piece.
    Piece(Identity),
    /// The strategy was told to leave it alone: the stored tensor is the parameter.
    Ignored,
}

thread_local! {
    /// The last reparameterization met by the walk that is going on in this thread.
    static MET: RefCell<Option<Sharded>> = const { RefCell::new(None) };
}

impl Reparameterization for Sharded {
    const NAME: &'static str = "shard";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let Self::Piece(identity) = self else {
            return base;
        };
        let (source, token) = or_raise(source(identity, &base));
        let slot = identity.slot;
        ops::view(base, token, View { source, slot })
    }
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
            Self::Piece(identity) => {
                let layout = &identity.sharding.unit(identity.unit).layout;
                let shape = &layout.slots[identity.slot].shape;
                format!("{shape:?} of unit {}", layout.name)
            }
            Self::Ignored => "ignored".into(),
        };
        content.add_formatted(&text).optional()
    }
}

impl ModuleDisplay for Sharded {}

/// What to do with the float tensors of a model.
pub(crate) trait Visit {
    /// What is remembered of a tensor until it is known whether it is sharded.
    type Held;

    /// A stored tensor.
    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held;

    /// It is a sharded parameter.
    fn sharded(&mut self, path: &str, held: Self::Held, identity: Identity);

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
                Sharded::Piece(identity) => self.visit.sharded(&path, held, identity),
                Sharded::Ignored => self.visit.ignored(&path, held),
            }
        }
    }
}
