//! What an optimizer keeps of a model, by path.

use crate::oracle::Values;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Tensor, TensorData};
use burn_pack::Reader;
use std::collections::BTreeMap;

/// What an optimizer keeps, by the path of a parameter and a field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct States {
    pub(crate) tensors: Values,
    pub(crate) numbers: BTreeMap<String, String>,
}

pub(crate) fn states<M: Module>(optimizer: &ModuleOptimizer, model: &M) -> States {
    struct Paths(Vec<String>, BTreeMap<String, String>);
    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(param.id.val().to_string(), self.0.join("."));
        }
    }
    let mut paths = Paths(Vec::new(), BTreeMap::new());
    model.visit(&mut paths);
    let named = |name: &str| {
        let (id, field) = name.split_once('.').unwrap();
        format!("{}/{field}", paths.1[id])
    };
    let record = Reader::from_bytes(optimizer.into_bytes().unwrap()).unwrap();
    let scalars = record.scalars().iter();
    let numbers = scalars.map(|(name, value)| (named(name), format!("{value:?}")));
    let numbers = numbers.collect();
    let tensors = record.into_tensors().unwrap().into_iter().map(|tensor| {
        let (name, dtype, shape, _, bytes) = tensor.into_parts().unwrap();
        let data = TensorData::from_bytes(bytes, shape, dtype);
        (named(&name), data.iter::<f64>().collect())
    });
    States {
        tensors: tensors.collect(),
        numbers,
    }
}

impl States {
    /// Those of the parameters whose path is chosen.
    pub(crate) fn of(&self, choose: impl Fn(&str) -> bool) -> Self {
        let is_chosen = |name: &str| choose(name.split_once('/').unwrap().0);
        let mut chosen = self.clone();
        chosen.tensors.retain(|name, _| is_chosen(name));
        chosen.numbers.retain(|name, _| is_chosen(name));
        chosen
    }
}
