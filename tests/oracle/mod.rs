//! The reference of the tests: one plain device that sees the whole batch.

#![allow(dead_code)]

pub mod place;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::activation::gelu;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_dist::launch::Threads;
use burn_dist::{Destination, ShardedGradients, Strategy, World, unit};
use std::collections::BTreeMap;
use std::time::Duration;

/// Values by path.
pub type Values = BTreeMap<String, Vec<f64>>;

/// Every strategy that fits a world of `size` ranks.
pub fn strategies(size: usize) -> Vec<Strategy> {
    let mut all = vec![
        Strategy::ddp(),
        Strategy::zero1(),
        Strategy::zero2(),
        Strategy::fsdp(),
    ];
    let groups = (1..=size).filter(|g| size.is_multiple_of(*g));
    all.extend(groups.map(Strategy::hybrid));
    if size == 1 {
        all.push(Strategy::single());
    }
    all
}

/// Options of a strategy that change traffic and memory and no result.
const OPTIONS: [fn(Strategy) -> Strategy; 8] = [
    |strategy| strategy.recompute(true),
    |strategy| strategy.no_sync(true),
    |strategy| strategy.reshard_after_backward(false),
    |strategy| strategy.reshard_after_forward(1),
    |strategy| strategy.reshard_after_forward(2),
    |strategy| strategy.reshard_after_forward(3),
    |strategy| strategy.persistence_threshold(15),
    |strategy| strategy.absent(["blocks.*"]),
];

/// Every strategy that fits a world of `size` ranks, with each of its options; what a strategy refuses is left out.
pub fn with_option<M: Module>(size: usize, model: &M) -> Vec<Strategy> {
    let all = strategies(size).into_iter().flat_map(|strategy| {
        let with = OPTIONS.iter();
        with.map(move |option| option(strategy.clone()))
    });
    let fits = |strategy: &Strategy| strategy.plan(model, size).is_ok();
    all.filter(fits).collect()
}

/// The same with each two of the options, those first that have one.
pub fn with_options<M: Module>(size: usize, model: &M) -> Vec<Strategy> {
    let mut all = with_option(size, model);
    for strategy in strategies(size) {
        for (number, first) in OPTIONS.iter().enumerate() {
            for second in &OPTIONS[number + 1..] {
                let both = second(first(strategy.clone()));
                all.extend(both.plan(model, size).is_ok().then_some(both));
            }
        }
    }
    all
}

/// Ranks that give up after seconds: a test that hangs is a test that fails.
pub fn ranks(size: usize) -> Threads {
    Threads::new(size).deadline(Duration::from_secs(20))
}

/// Uneven on purpose: 7x15 and 15x3 matrices, and a parameter of one element.
#[derive(Module, Debug)]
pub struct Mlp {
    pub first: Linear,
    pub blocks: Vec<Linear>,
    pub last: Linear,
    pub scale: Param<Tensor<1>>,
}

impl Mlp {
    pub fn new(blocks: usize, device: &Device) -> Self {
        let dense = |i, o| LinearConfig::new(i, o).init(device);
        Self {
            first: dense(7, 15),
            blocks: (0..blocks).map(|_| dense(15, 15)).collect(),
            last: dense(15, 3),
            scale: Param::from_data([1.5], device),
        }
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        unit(self, x, |mlp: &Mlp, x| {
            let mut x = gelu(mlp.first.forward(x));
            for block in &mlp.blocks {
                x = unit(block, x, |block: &Linear, x| {
                    x.clone() + gelu(block.forward(x))
                });
            }
            mlp.last.forward(x) * mlp.scale.val().unsqueeze()
        })
    }
}

/// A batch of `rows`, different for each `step`.
pub fn batch(rows: usize, columns: usize, step: usize) -> TensorData {
    let at = |i: usize| (((i * 37 + step * 101) % 97) as f64 / 48.5 - 1.0) * 1.3;
    TensorData::new(
        (0..rows * columns).map(at).collect::<Vec<f64>>(),
        [rows, columns],
    )
}

/// The rows of `data` that belong to `rank` of `size`.
pub fn rows(data: &TensorData, rank: usize, size: usize) -> TensorData {
    let shape = data.shape().to_vec();
    let (rows, columns) = (shape[0] / size, shape[1]);
    let all: Vec<f64> = data.iter::<f64>().collect();
    TensorData::new(
        all[rank * rows * columns..(rank + 1) * rows * columns].to_vec(),
        [rows, columns],
    )
}

pub fn tensor<const D: usize>(data: &TensorData, dtype: DType, device: &Device) -> Tensor<D> {
    Tensor::from_data(data.clone().convert_dtype(dtype), (device, dtype))
}

/// The model in another float type, with leaves of its own.
pub fn cast<M: Module>(model: M, dtype: FloatDType) -> M {
    struct Cast(FloatDType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
            p.map(|t| {
                let grad = t.is_require_grad();
                Tensor::from_inner(t.inner().cast(self.0)).set_require_grad(grad)
            })
        }
    }
    model.map(&mut Cast(dtype))
}

/// The model with numbers that no generator draws: where rounding is what is measured, now and then a
/// draw takes it beyond any tolerance.
pub fn undrawn<M: Module>(model: M) -> M {
    struct Waves(usize);
    impl ModuleMapper for Waves {
        fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            let from = self.0 * 17;
            p.map(|t| {
                let (dims, device) = (t.dims(), t.device().inner());
                // As large as a linear layer's own.
                let scale = (dims[0] as f64).sqrt().recip();
                let at = |i: usize| ((i + from) * (i + 3) % 97) as f64 / 48.0 - 1.0;
                let numbers: Vec<f64> = (0..dims.iter().product()).map(|i| at(i) * scale).collect();
                let numbers = tensor(&TensorData::new(numbers, dims), t.dtype(), &device);
                Tensor::from_inner(numbers).set_require_grad(t.is_require_grad())
            })
        }
    }
    model.map(&mut Waves(0))
}

/// Every float tensor of a plain module.
pub fn values<M: Module>(model: &M) -> Values {
    #[derive(Default)]
    struct Read(Vec<String>, Values);
    impl ModuleVisitor for Read {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
            let data = p.base().dequantize().into_data();
            self.1
                .insert(self.0.join("."), data.iter::<f64>().collect());
        }
    }
    let mut read = Read::default();
    model.visit(&mut read);
    read.1
}

/// A model that holds the gradients instead of the parameters, zeros where there is none.
pub fn holding<M: Module>(model: &M, grads: &GradientsParams) -> M {
    struct Put<'a>(&'a GradientsParams);
    impl ModuleMapper for Put<'_> {
        fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let grad = self.0.get::<D>(p.id);
            // What is quantized has neither a gradient nor zeros.
            if matches!(p.base().dtype(), DType::QFloat(_)) {
                return p;
            }
            p.map(|t| Tensor::from_inner(grad.unwrap_or_else(|| t.inner().zeros_like())))
        }
    }
    model.clone().map(&mut Put(grads))
}

/// The results of a run: per step the loss and the full gradients, and the parameters.
#[derive(Debug, Default, Clone)]
pub struct Trace {
    pub losses: Vec<f64>,
    pub gradients: Vec<Values>,
    pub parameters: Values,
}

pub fn scalar(x: &Tensor<1>) -> f64 {
    x.clone().into_data().iter::<f64>().next().unwrap()
}

/// Trains on one plain device.
pub fn plain<M: Module>(
    mut model: M,
    mut optimizer: ModuleOptimizer,
    steps: usize,
    lr: f64,
    loss: impl Fn(&M, usize) -> Tensor<1>,
) -> Trace {
    let mut trace = Trace::default();
    for step in 0..steps {
        let value = loss(&model, step);
        trace.losses.push(scalar(&value));
        let grads = GradientsParams::from_grads(value.backward(), &model);
        trace.gradients.push(values(&holding(&model, &grads)));
        model = optimizer.step(lr, model, grads);
    }
    trace.parameters = values(&model);
    trace
}

/// Trains a sharded model; `backward` runs one step's backward and also gives the loss.
pub fn sharded<M: Module>(
    world: &World,
    mut model: M,
    optimizer: ModuleOptimizer,
    steps: usize,
    lr: f64,
    backward: impl Fn(&M, usize) -> burn_dist::Result<(f64, ShardedGradients)>,
) -> burn_dist::Result<Trace> {
    let mut optimizer = world.optimizer(optimizer, &model)?;
    let mut trace = Trace::default();
    for step in 0..steps {
        let (loss, grads) = backward(&model, step)?;
        trace.losses.push(loss);
        let grads = grads.into_params();
        let full = world.full_with_adapters(&holding(&model, &grads), Destination::All)?;
        trace.gradients.push(values(&full.unwrap()));
        model = optimizer.step(lr, model, grads);
    }
    let full = world.full_with_adapters(&model, Destination::All)?;
    trace.parameters = values(&full.unwrap());
    Ok(trace)
}

/// Asserts that two sets of values agree within `tolerance` of each tensor's largest element.
///
/// Tensors below 1e-12 of the largest are exempt: the true gradient of a key bias is 0, and what
/// is computed for it is rounding alone.
pub fn close(what: &str, found: &Values, expected: &Values, tolerance: f64) {
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "{what}: paths"
    );
    let largest = |values: &[f64]| values.iter().fold(0f64, |m, x| m.max(x.abs()));
    let overall = expected.values().fold(0f64, |m, v| m.max(largest(v)));
    for (path, expected) in expected {
        let found = &found[path];
        assert_eq!(found.len(), expected.len(), "{what}: {path}");
        let largest = largest(expected);
        if largest > 0.0 && largest < 1e-12 * overall {
            continue;
        }
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            // Not the other way around: a NaN is not close to anything.
            let close = (found - expected).abs() <= tolerance * largest;
            assert!(
                close,
                "{what}: element {at} of {path} is {found:e} for {expected:e}, largest {largest:e}"
            );
        }
    }
}
