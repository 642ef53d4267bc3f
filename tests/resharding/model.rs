//! A model with all that a save can meet: uneven shapes, running state, integers, booleans, parameters that are
//! frozen, read twice, stored whole, or without a gradient.

use crate::oracle::{self, Mlp, Values};
use burn::module::{Module, Param, ParamGroup, ParamId};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, LionConfig, ModuleOptimizer};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor};
use burn_dist::launch::Threads;
use burn_dist::nn::{SyncBatchNorm, SyncBatchNormConfig};
use burn_dist::{Destination, Result, Strategy, World, unit};
use std::path::Path;
use std::sync::OnceLock;

/// Samples of all ranks in a step, which 1, 2, 3, 4 and 8 ranks divide.
const BATCH: usize = 24;

#[derive(Module, Debug)]
pub struct Zoo {
    pub mlp: Mlp,
    pub norm: SyncBatchNorm,
    /// Takes no gradient.
    pub frozen: Linear,
    /// Takes gradients, but none comes.
    pub unused: Linear,
    /// Stored whole on every rank.
    pub whole: Param<Tensor<1>>,
    /// Neither takes gradients: steps so far, and whether their number is odd.
    pub steps: Param<Tensor<1, Int>>,
    pub is_odd: Param<Tensor<1, Bool>>,
}

impl Zoo {
    pub fn new(world: &World) -> Self {
        let device = world.device();
        let mlp = Mlp::new(2, &device);
        let zoo = Self {
            norm: SyncBatchNormConfig::new(3).init(world),
            frozen: LinearConfig::new(3, 3).init(&device).no_grad(),
            unused: LinearConfig::new(5, 2).init(&device),
            steps: Param::initialized(ParamId::new(), Tensor::from_data([0], &device)),
            is_odd: Param::initialized(ParamId::new(), Tensor::from_data([false], &device)),
            whole: Param::from_data([0.5, -0.25, 0.125], &device),
            mlp,
        };
        oracle::undrawn(zoo)
    }

    pub fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        unit(self, x, |zoo: &Self, x| {
            let y = zoo.frozen.forward(zoo.mlp.forward(x.clone()));
            // The first layer's weight once more: tied.
            let tied = x.matmul(zoo.mlp.first.weight.val());
            let rows = y.dims()[0];
            let y = zoo.norm.forward(y.reshape([rows, 3, 1])).reshape([rows, 3]);
            let y = y * zoo.whole.val().unsqueeze() + tied.narrow(1, 0, 3);
            y.powi_scalar(2).mean()
        })
    }
}

/// Ranks whose default type is f64.
pub fn ranks(size: usize) -> Threads {
    static F64: OnceLock<()> = OnceLock::new();
    F64.get_or_init(|| {
        Device::default().configure(FloatDType::F64).unwrap();
    });
    oracle::ranks(size).seed(11)
}

/// AdamW for all, and something else for the blocks.
pub fn optimizer(world: &World, model: &Zoo) -> Result<ModuleOptimizer> {
    let blocks = ParamGroup::from_predicate("mlp.blocks.");
    let groups = AdamWConfig::new()
        .init()
        .with_group(blocks, LionConfig::new().build(), None);
    world.optimizer(groups, model)
}

pub type Run = (Zoo, ModuleOptimizer);

pub fn start(world: &World, strategy: &Strategy) -> Result<Run> {
    let strategy = strategy.clone().replicate(["whole"]);
    let model = strategy.shard(Zoo::new(world), world)?;
    let optimizer = optimizer(world, &model)?;
    Ok((model, optimizer))
}

pub fn train(
    world: &World,
    (mut model, mut optimizer): Run,
    steps: std::ops::Range<usize>,
) -> Result<Run> {
    for step in steps {
        let mine = oracle::rows(&oracle::batch(BATCH, 7, step), world.rank(), world.size());
        let x: Tensor<2> = oracle::tensor(&mine, DType::F64, &world.device());
        let grads = world.backward(model.loss(x), &model)?;
        model = optimizer.step(1e-2, model, grads.clip_norm(1.0)?.grads);
        model.steps = model.steps.map(|steps| steps + 1);
        model.is_odd = model.is_odd.map(|odd| odd.bool_not());
    }
    Ok((model, optimizer))
}

pub fn save(
    world: &World,
    folder: impl AsRef<Path>,
    (model, optimizer): &Run,
    step: usize,
) -> Result<()> {
    world.save(folder, model, optimizer, &step)
}

pub fn load(
    world: &World,
    folder: impl AsRef<Path>,
    (model, optimizer): Run,
) -> Result<(Run, usize)> {
    let (model, optimizer, step) = world.load(folder, model, optimizer)?;
    Ok(((model, optimizer), step))
}

pub fn parameters(world: &World, model: &Zoo) -> Result<Values> {
    let full = world.full(model, Destination::All)?;
    Ok(oracle::values(&full.unwrap()))
}

/// The largest difference between two models.
pub fn distance(a: &Values, b: &Values) -> f64 {
    assert!(a.keys().eq(b.keys()));
    let pairs = a.values().flatten().zip(b.values().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
