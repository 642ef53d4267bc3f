//! A module that has some parameters of another one, under their paths and ids, and other tensors for them.
//!
//! Burn's optimizers ask nothing else of a module, so a parameter gets the group, the rate and the state that it has in
//! the model.

use crate::error::Result;
use crate::shard::memory::Primitive;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor};

/// Some parameters of a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Imitation {
    /// The names on the way to each.
    paths: Vec<Vec<String>>,
    tensors: Vec<Stand>,
}

/// A parameter of some number of dimensions.
#[derive(Clone, Debug)]
pub(crate) enum Stand {
    One(Param<Tensor<1>>),
    Two(Param<Tensor<2>>),
    Three(Param<Tensor<3>>),
    Four(Param<Tensor<4>>),
}

/// The largest number of dimensions of a parameter that can be imitated.
pub(crate) const MOST_DIMENSIONS: usize = 4;

/// A tensor that stands for a parameter.
pub(crate) trait StandIn {
    fn stand(self, id: ParamId) -> Stand;
}

macro_rules! stands {
    ($($rank:literal => $variant:ident),*) => {
        $(impl StandIn for Tensor<$rank> {
            fn stand(self, id: ParamId) -> Stand {
                let tensor = Tensor::from_inner(self).require_grad();
                Stand::$variant(Param::initialized(id, tensor))
            }
        })*
    };
}
stands!(1 => One, 2 => Two, 3 => Three, 4 => Four);

/// Does the same with a parameter of any number of dimensions.
macro_rules! each {
    ($stand:expr, $param:ident => $do:expr) => {
        match $stand {
            Stand::One($param) => $do,
            Stand::Two($param) => $do,
            Stand::Three($param) => $do,
            Stand::Four($param) => $do,
        }
    };
}

impl Stand {
    /// A parameter with this id that takes gradients.
    pub(crate) fn of(id: ParamId, tensor: impl StandIn) -> Self {
        tensor.stand(id)
    }

    /// Its storage.
    pub(crate) fn primitive(&self) -> Result<Primitive> {
        each!(self, param => Primitive::of(param.val().inner()))
    }

    /// Its elements, copied.
    pub(crate) fn elements(&self) -> Vec<f32> {
        let data = each!(self, param => param.val().into_data());
        data.iter::<f32>().collect()
    }
}

impl Imitation {
    /// Adds a parameter at a path.
    pub(crate) fn add(&mut self, path: &str, stand: Stand) {
        self.paths.push(path.split('.').map(String::from).collect());
        self.tensors.push(stand);
    }

    /// The parameters in the order in which they were added.
    pub(crate) fn tensors(&self) -> &[Stand] {
        &self.tensors
    }
}

const CONTAINER: &str = "Struct:Imitation";

impl Module for Imitation {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (path, stand) in self.paths.iter().zip(&self.tensors) {
            path.iter()
                .for_each(|name| visitor.enter_module(name, CONTAINER));
            each!(stand, param => visitor.visit_float(param));
            path.iter()
                .rev()
                .for_each(|name| visitor.exit_module(name, CONTAINER));
        }
    }

    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        let mapped = self.paths.iter().zip(self.tensors).map(|(path, stand)| {
            path.iter()
                .for_each(|name| mapper.enter_module(name, CONTAINER));
            let stand = match stand {
                Stand::One(param) => Stand::One(mapper.map_float(param)),
                Stand::Two(param) => Stand::Two(mapper.map_float(param)),
                Stand::Three(param) => Stand::Three(mapper.map_float(param)),
                Stand::Four(param) => Stand::Four(mapper.map_float(param)),
            };
            path.iter()
                .rev()
                .for_each(|name| mapper.exit_module(name, CONTAINER));
            stand
        });
        self.tensors = mapped.collect();
        self
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        devices
    }

    fn fork(self, _: &Device) -> Self {
        self
    }

    fn to_device(self, _: &Device) -> Self {
        self
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }
}
