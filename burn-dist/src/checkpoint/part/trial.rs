//! A trial of an optimizer: a few steps on small test parameters.
//!
//! Burn's optimizers are type-erased: nothing says what kind one is, or with which settings and parameter
//! groups. So every trainable parameter is replaced by a small one with the same path and id, which the same
//! group takes, and stepped a few times. The results and the state that the optimizer keeps are written to
//! the save, and compared with those of the optimizer that a load continues with.

use super::optimizer_state::OptimizerState;
use crate::checkpoint::format::{OptimizerBehaviour, ParameterBehaviour};
use crate::error::Result;
use crate::shard::{ShardedParam, Visit, walk};
use crate::unwind::try_quietly;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Elements of a test parameter.
const LEN: usize = 12;

/// Factors of the gradients in each step; the last is so large that clipping changes the result.
const SCALES: [f32; 3] = [1.0, 0.3, 1e3];

/// Steps test parameters with a copy of `optimizer`, without its states; `None` if that panics.
pub(in crate::checkpoint) fn observe<M: Module>(
    optimizer: &ModuleOptimizer,
    model: &M,
    paths: &HashMap<u64, String>,
) -> Result<Option<OptimizerBehaviour>> {
    let found = try_quietly(|| run(optimizer, model, paths));
    found.map_or(Ok(None), |found| found.map(Some))
}

fn run<M: Module>(
    optimizer: &ModuleOptimizer,
    model: &M,
    paths: &HashMap<u64, String>,
) -> Result<OptimizerBehaviour> {
    let mut trainable = Trainable::default();
    walk(model, &mut trainable);
    let ids = trainable.ids;
    let mut optimizer = optimizer.clone().load_record(OptimizerRecord::default());
    let mut model = model.clone().map(&mut ReplaceParameters(&ids));
    let mut steps: BTreeMap<u64, Vec<Vec<Option<f32>>>> = BTreeMap::new();
    for (step, scale) in SCALES.into_iter().enumerate() {
        let mut gradients = GradientsParams::new();
        for (id, rank) in &ids {
            let f = |at| scale * gradient(at, step);
            match rank {
                1 => gradients.register(*id, test_tensor::<1>(f)),
                2 => gradients.register(*id, test_tensor::<2>(f)),
                3 => gradients.register(*id, test_tensor::<3>(f)),
                4 => gradients.register(*id, test_tensor::<4>(f)),
                5 => gradients.register(*id, test_tensor::<5>(f)),
                6 => gradients.register(*id, test_tensor::<6>(f)),
                7 => gradients.register(*id, test_tensor::<7>(f)),
                _ => gradients.register(*id, test_tensor::<8>(f)),
            }
        }
        // At so large a learning rate every setting changes the result.
        model = optimizer.step(1.0, model, gradients);
        let mut read = ReadElements::default();
        walk(&model, &mut read);
        for (id, elements) in read.0.into_iter().filter(|(id, _)| ids.contains_key(id)) {
            steps.entry(id.val()).or_default().push(elements);
        }
    }
    let mut keeps: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in OptimizerState::of(&optimizer, paths)?.names() {
        if let Some((path, field)) = name.split_once('/') {
            keeps.entry(path.into()).or_default().insert(field.into());
        }
    }
    let mut behaviour = OptimizerBehaviour::default();
    // In the order of the paths: that of the ids is random.
    let steps = steps.into_iter();
    let named: BTreeMap<&String, _> = steps
        .filter_map(|(id, steps)| Some((paths.get(&id)?, steps)))
        .collect();
    for (path, steps) in named {
        let keeps = keeps.remove(path).unwrap_or_default();
        behaviour.add(path, ParameterBehaviour { keeps, steps });
    }
    Ok(behaviour)
}

/// From 1 down to a few millionths, of both signs, so that an epsilon in a divisor changes the result.
fn gradient(at: usize, step: usize) -> f32 {
    let size = 10f32.powf(-0.5 * ((at + 5 * step) % LEN) as f32);
    match (at + step) % 3 {
        0 => -size,
        _ => size,
    }
}

fn test_tensor<const D: usize>(f: impl Fn(usize) -> f32) -> Tensor<D> {
    // Several rows and columns, for optimizers that treat matrices in their own way.
    let mut shape = vec![1; D];
    match shape.as_mut_slice() {
        [rows, columns, ..] => (*rows, *columns) = (4, LEN / 4),
        [all] => *all = LEN,
        [] => {}
    }
    let values: Vec<f32> = (0..shape.iter().product()).map(f).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Ids and numbers of dimensions of the sharded parameters that take gradients.
#[derive(Default)]
struct Trainable {
    ids: BTreeMap<ParamId, usize>,
}

impl Visit for Trainable {
    type Held = (ParamId, usize);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        (param.id, D)
    }

    fn sharded(&mut self, _: &str, (id, rank): Self::Held, identity: ShardedParam) {
        let trainable = identity.sharding.unit(identity.unit).layout.trainable;
        if trainable && (1..=8).contains(&rank) {
            self.ids.insert(id, rank);
        }
    }
}

/// Replaces the parameters with these ids by test parameters.
struct ReplaceParameters<'a>(&'a BTreeMap<ParamId, usize>);

impl ModuleMapper for ReplaceParameters<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.0.contains_key(&param.id) {
            param.map(|_| {
                let value = |at: usize| ((at * 7 + 1) as f32).sin();
                Tensor::from_inner(test_tensor(value)).require_grad()
            })
        } else {
            param
        }
    }
}

/// Reads the elements of all test parameters.
#[derive(Default)]
struct ReadElements(Vec<(ParamId, Vec<Option<f32>>)>);

impl Visit for ReadElements {
    type Held = (ParamId, Vec<Option<f32>>);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        let stored = param.base();
        // Of a model's own tensors none is read.
        let elements = match stored.dims().iter().product::<usize>() {
            LEN => stored.into_data().iter::<f32>().collect(),
            _ => Vec::new(),
        };
        let finite = elements.into_iter().map(|x| x.is_finite().then_some(x));
        (param.id, finite.collect())
    }

    fn sharded(&mut self, _: &str, held: Self::Held, _: ShardedParam) {
        self.0.push(held);
    }
}
