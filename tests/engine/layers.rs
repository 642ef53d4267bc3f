//! Burn's own layers, unmodified, inside a sharded model.
//!
//! None of them knows that its weights are gathered and resharded, or that it stores a shard.

use crate::oracle;
use crate::oracle::place::{Place, same_everywhere};
use crate::oracle::{Values, cast, ranks, values};
use burn::module::{Module, ModuleDisplay, Param};
use burn::nn::attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::transformer::{PositionWiseFeedForward, PositionWiseFeedForwardConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, LayerNorm,
    LayerNormConfig, Linear, LinearConfig, LinearLayout, RmsNorm, RmsNormConfig,
};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};
use burn_dist::{Destination, Result, Strategy, World, unit};

fn device() -> Device {
    Device::flex().autodiff()
}

fn double<M: Module>(model: M) -> M {
    cast(model, FloatDType::F64)
}

/// A layer among others: before it a trained scale, so that its input takes gradients.
#[derive(Module, Debug)]
struct Wrapper<M: Module> {
    scale: Param<Tensor<1>>,
    layers: Vec<M>,
}

impl<M: Module + ModuleDisplay + Sync + 'static> Wrapper<M> {
    fn new(layers: Vec<M>) -> Self {
        let scale = Param::from_data([0.7], &device());
        double(Self { scale, layers })
    }

    /// Trains with every layer in turn, as a unit and then as part of a model without units.
    fn check(self, forward: fn(&M, Tensor<2>) -> Tensor<2>) {
        let marked = move |model: &Self, x| {
            let y = unit(model, x, move |model: &Self, x: Tensor<2>| {
                let x = x * model.scale.val().unsqueeze();
                let layers = model.layers.iter();
                layers.fold(x, |x, layer| unit(layer, x, forward))
            });
            y.powi_scalar(2).mean()
        };
        same_everywhere(|place| place.train(&self, 3, marked).map(|_| ()));
        let unmarked = move |model: &Self, x: Tensor<2>| {
            let x = x * model.scale.val().unsqueeze();
            let y = model.layers.iter().fold(x, |x, layer| forward(layer, x));
            y.powi_scalar(2).mean()
        };
        same_everywhere(|place| place.train(&self, 2, unmarked).map(|_| ()));
    }
}

#[test]
fn linear_in_both_layouts() {
    let dense = |layout| LinearConfig::new(7, 7).with_layout(layout).init(&device());
    let layers = vec![dense(LinearLayout::Row), dense(LinearLayout::Col)];
    Wrapper::<Linear>::new(layers).check(|layer, x| gelu(layer.forward(x)));
}

#[test]
fn layer_norm() {
    let norm = || LayerNormConfig::new(7).init(&device());
    // Squares of normalised values have hardly any gradient; cubes do.
    Wrapper::<LayerNorm>::new(vec![norm(), norm()])
        .check(|layer, x| layer.forward(x.clone()).powi_scalar(3) + x);
}

#[test]
fn group_norm() {
    let norm = || GroupNormConfig::new(1, 7).init(&device());
    Wrapper::<GroupNorm>::new(vec![norm()]).check(|layer, x| {
        let pixels = Tensor::cat(
            vec![
                x.clone().unsqueeze_dim::<3>(2),
                x.powi_scalar(3).unsqueeze_dim(2),
            ],
            2,
        );
        layer
            .forward(pixels)
            .powi_scalar(3)
            .mean_dim(2)
            .squeeze_dim(2)
    });
}

#[test]
fn conv2d() {
    let conv = || Conv2dConfig::new([1, 5], [3, 1]).init(&device());
    Wrapper::<Conv2d>::new(vec![conv()]).check(|layer, x| {
        let [rows, columns] = x.dims();
        gelu(layer.forward(x.reshape([rows, 1, columns, 1]))).flatten::<2>(1, 3)
    });
}

#[test]
fn multi_head_attention() {
    let attention = || {
        MultiHeadAttentionConfig::new(7, 1)
            .with_dropout(0.0)
            .init(&device())
    };
    Wrapper::<MultiHeadAttention>::new(vec![attention(), attention()]).check(|layer, x| {
        // Each sample is a sentence of two words, the second its reverse.
        let words = Tensor::stack::<3>(vec![x.clone(), x.flip([1])], 1);
        let context = layer.forward(MhaInput::self_attn(words)).context;
        context.sum_dim(1).squeeze_dim(1)
    });
}

/// Words: no layer with an input that takes gradients comes before an embedding.
#[derive(Module, Debug)]
struct Words {
    table: Embedding,
    layers: Vec<Linear>,
}

#[test]
fn embedding() {
    let model = double(Words {
        table: EmbeddingConfig::new(11, 7).init(&device()),
        layers: vec![LinearConfig::new(7, 7).init(&device())],
    });
    let loss = |model: &Words, x: Tensor<2>| {
        let words: Tensor<2, Int> = (x.abs() * 8.0).int();
        let y = unit(model, words, |model: &Words, words| {
            let x = model.table.forward(words).sum_dim(1).squeeze_dim::<2>(1);
            model.layers.iter().fold(x, |x, layer| {
                unit(layer, x, |layer: &Linear, x| gelu(layer.forward(x)))
            })
        });
        y.powi_scalar(2).mean()
    };
    same_everywhere(|place: &Place| place.train(&model, 3, loss).map(|_| ()));
}

/// A convolutional net with batch norms.
#[derive(Module, Debug)]
struct Normed {
    enter: Linear,
    norm: BatchNorm,
    leave: Linear,
}

impl Normed {
    fn new() -> Self {
        let dense = |i, o| LinearConfig::new(i, o).init(&device());
        double(Self {
            enter: dense(7, 6),
            norm: BatchNormConfig::new(6).init(&device()),
            leave: dense(6, 2),
        })
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        let x = self.norm.forward(self.enter.forward(x));
        self.leave.forward(gelu(x)).powi_scalar(2).mean()
    }
}

/// One device that runs each rank's rows as a forward of its own, and averages what the running
/// state would have become.
fn one_by_one(mut model: Normed, size: usize, steps: usize) -> Values {
    let mut sgd = SgdConfig::new().init();
    for step in 0..steps {
        let before = model.valid().into_record();
        let mut losses = Vec::new();
        let mut states = Vec::new();
        for rank in 0..size {
            // Running state is shared by clones: each forward gets one of its own.
            let own = model.clone().valid().load_record(before.clone()).train();
            let rows = oracle::rows(&oracle::batch(24, 7, step), rank, size);
            let rows = || oracle::tensor(&rows, DType::F64, &device());
            let _ = own.loss(rows());
            let state = own.norm.valid();
            states.push((state.running_mean.value(), state.running_var.value()));
            losses.push(model.loss(rows()));
        }
        let loss = Tensor::cat(losses, 0).mean();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        let mean = |f: fn(&(Tensor<1>, Tensor<1>)) -> Tensor<1>| {
            let all = states.iter().map(|s| f(s).unsqueeze::<2>()).collect();
            Tensor::from_inner(Tensor::cat(all, 0).mean_dim(0).squeeze_dim::<1>(0))
        };
        model = sgd.step(1e-2, model.valid().train(), grads);
        let _ = model.norm.running_mean.value_sync();
        let _ = model.norm.running_var.value_sync();
        model.norm.running_mean.update(mean(|s| s.0.clone()));
        model.norm.running_var.update(mean(|s| s.1.clone()));
        let _ = model.norm.running_mean.value_sync();
        let _ = model.norm.running_var.value_sync();
    }
    values(&model)
}

fn trained(world: &World, strategy: Strategy, model: &Normed, steps: usize) -> Result<Values> {
    let mut model = strategy.shard(model.clone(), world)?;
    let mut sgd = world.optimizer(SgdConfig::new().init(), &model)?;
    for step in 0..steps {
        let rows = oracle::rows(&oracle::batch(24, 7, step), world.rank(), world.size());
        let loss = model.loss(oracle::tensor(&rows, DType::F64, &world.device()));
        let grads = world.backward(loss, &model)?;
        model = sgd.step(1e-2, model, grads.into_params());
    }
    let full = world.full(&model, Destination::All)?;
    Ok(values(&full.unwrap()))
}

#[test]
fn batch_norm_averages_its_running_state() {
    let model = Normed::new();
    for size in 1..=4 {
        let expected = one_by_one(model.clone().valid().train(), size, 3);
        let start = &values(&model)["norm.running_mean"];
        assert_ne!(&expected["norm.running_mean"], start);
        for strategy in oracle::strategies(size) {
            let what = format!("{strategy} at world {size}");
            let run = |world: World| trained(&world, strategy.clone(), &model, 3);
            for found in ranks(size).run(run).unwrap() {
                oracle::close(&what, &found, &expected, 1e-9);
            }
        }
    }
}

/// Layers that read the shape of what they store.
#[derive(Module, Debug)]
struct Readers {
    batch: BatchNorm,
    rms: RmsNorm,
    blocks: Vec<PositionWiseFeedForward>,
}

impl Readers {
    fn new() -> Self {
        let device = device();
        double(Self {
            batch: BatchNormConfig::new(7).init(&device),
            rms: RmsNormConfig::new(7).init(&device),
            blocks: vec![
                PositionWiseFeedForwardConfig::new(7, 9)
                    .with_dropout(0.0)
                    .init(&device),
            ],
        })
    }
}

#[test]
fn layers_that_read_their_stored_shape_are_replicated() {
    let model = Readers::new();
    let loss = |model: &Readers, x: Tensor<2>| {
        let x = model.rms.forward(x);
        model.blocks[0].forward(x).powi_scalar(2).mean()
    };
    oracle::place::same_under(oracle::strategies, |place| {
        place.train(&model, 3, loss).map(|_| ())
    });
    let plan = Strategy::fsdp().plan(&model, 2).unwrap();
    assert!(plan.units().iter().all(|unit| unit.is_replicated()));
}

#[test]
fn replicated_parameters_count_once_in_the_norm() {
    let model = Normed::new();
    let norm = |strategy: Strategy, size: usize| {
        let run = |world: World| {
            let model = strategy.clone().shard(model.clone(), &world)?;
            let rows = oracle::tensor(&oracle::batch(24, 7, 0), DType::F64, &world.device());
            world.backward(model.loss(rows), &model)?.norm()
        };
        ranks(size).run(run).unwrap()[0]
    };
    // Every rank has the whole batch here, so the mean over ranks is one device's gradient.
    let alone = norm(Strategy::single(), 1);
    for size in 2..=4 {
        for strategy in oracle::strategies(size) {
            let found = norm(strategy.clone(), size);
            assert!(
                (found - alone).abs() < 1e-9 * alone,
                "{strategy} at world {size}: {found}"
            );
        }
    }
}
