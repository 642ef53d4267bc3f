//! The first pass of a unit beside plain Burn: layers that take a shape from what is stored.

use crate::oracle::{self, Mlp, Values, cast, ranks, undrawn, values};
use burn::module::{Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
use burn::optim::AdamWConfig;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::comm::Op;
use burn_dist::nn::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn_dist::{Destination, Error, Precision, Result, Strategy, World, unit};

/// A norm of somebody's own.
#[derive(Module, Debug)]
struct Scaled {
    linear: Linear,
    weight: Param<Tensor<1>>,
    /// How it finds out its number of features.
    #[module(skip)]
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// Right.
    Val,
    /// The shard's length: wrong numbers.
    Dims,
    /// The shard's length, where a reshape needs that of the whole: a panic.
    Reshape,
}

impl Scaled {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.linear.forward(x);
        let weight = self.weight.val();
        let weight = match self.how {
            How::Val => weight.clone() / weight.dims()[0] as f64,
            How::Dims => weight / self.weight.dims()[0] as f64,
            How::Reshape => {
                let square = self.linear.weight.val().reshape(self.linear.weight.dims());
                weight + square.sum() * 0.0
            }
        };
        y * weight.unsqueeze()
    }
}

#[derive(Module, Debug)]
struct Net {
    blocks: Vec<Scaled>,
}

impl Net {
    /// A model whose second block does as told.
    fn new(how: How, device: &Device) -> Self {
        let block = |at| Scaled {
            linear: LinearConfig::new(6, 6).init(device),
            weight: Param::from_data([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], device),
            how: if at == 1 { how } else { How::Val },
        };
        Self {
            blocks: (0..3).map(block).collect(),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        unit(self, x, |net: &Self, mut x| {
            for block in &net.blocks {
                x = unit(block, x, Scaled::forward);
            }
            x
        })
    }
}

fn input(world: &World) -> Tensor<2> {
    let rows = oracle::batch(4, 6, world.rank());
    oracle::tensor(&rows, DType::F32, &world.device())
}

/// The error of every rank.
fn failures(strategy: &Strategy, size: usize, how: How) -> Vec<Error> {
    let found = ranks(size).run(|world| {
        let model = strategy
            .clone()
            .shard(Net::new(how, &world.device()), &world)?;
        let found = world.run(|| model.forward(input(&world)));
        // One that fails must not end before the others have their errors.
        Ok(found.map(|_| ()))
    });
    found.unwrap().into_iter().filter_map(Result::err).collect()
}

#[test]
fn a_layer_that_reads_its_stored_shape_is_found_on_all_ranks() {
    for (size, strategy) in [
        (2, Strategy::fsdp()),
        (3, Strategy::fsdp()),
        (4, Strategy::hybrid(2)),
        (2, Strategy::zero2()),
        (2, Strategy::fsdp().recompute(true)),
    ] {
        let strategy = strategy.check_units(true);
        let errors = failures(&strategy, size, How::Dims);
        assert_eq!(errors.len(), size, "{strategy} at world {size}");
        assert!(errors.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(matches!(errors[0], Error::Model { .. }));
        let text = errors[0].to_string();
        for part in ["blocks.1", "weight.dims()", "weight.val()", "replicate"] {
            assert!(text.contains(part), "{strategy}: {text}");
        }
        assert!(failures(&strategy, size, How::Val).is_empty());
    }
    // Without the check nobody notices.
    let unchecked = Strategy::fsdp().check_units(false);
    assert!(failures(&unchecked, 2, How::Dims).is_empty());
    // Where every rank stores all of it, it is right.
    let whole = Strategy::ddp().check_units(true);
    assert!(failures(&whole, 2, How::Dims).is_empty());
    let replicated = Strategy::fsdp().replicate(["blocks.1.weight"]);
    assert!(failures(&replicated.check_units(true), 2, How::Dims).is_empty());
}

#[test]
fn a_panic_in_a_unit_has_the_hint() {
    for check in [true, false] {
        let strategy = Strategy::fsdp().check_units(check);
        let error = ranks(2).run(|world| {
            let model = strategy
                .clone()
                .shard(Net::new(How::Reshape, &world.device()), &world)?;
            drop(model.forward(input(&world)));
            Ok(())
        });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("panicked"), "{text}");
        assert!(text.contains("in unit blocks.1"), "{text}");
        assert_eq!(text.matches("hint: ").count(), 1, "{text}");
    }
}

/// Trains a few steps; the parameters, and the gathers of the last step.
fn trained<M: Module + Sync>(
    size: usize,
    strategy: &Strategy,
    model: &M,
    loss: impl Fn(&M, Tensor<2>) -> Tensor<1> + Sync,
) -> Vec<(Values, u64)> {
    let run = |world: World| {
        let mut model = strategy.clone().shard(model.clone(), &world)?;
        let mut optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
        let mut gathers = 0;
        for _ in 0..3 {
            world.ledger().reset();
            let loss = world.run(|| loss(&model, input(&world)))?;
            let grads = world.backward(loss, &model)?;
            gathers = world.ledger().total(Op::AllGather).calls;
            model = optimizer.step(1e-2, model, grads.into_params());
        }
        let full = world.full(&model, Destination::All)?.unwrap();
        Ok((values(&full), gathers))
    };
    ranks(size).seed(4).run(run).unwrap()
}

/// Asserts that the check passes and changes no bit and no later traffic.
fn changes_nothing<M: Module + Sync>(
    strategy: &Strategy,
    model: &M,
    loss: impl Fn(&M, Tensor<2>) -> Tensor<1> + Sync,
) {
    for size in [1, 2, 3] {
        let with = trained(size, &strategy.clone().check_units(true), model, &loss);
        let without = trained(size, &strategy.clone().check_units(false), model, &loss);
        assert!(with == without, "{strategy} at world {size}");
    }
}

fn strategies() -> [Strategy; 4] {
    [
        Strategy::fsdp(),
        Strategy::fsdp().recompute(true),
        Strategy::zero2(),
        Strategy::fsdp().precision(Precision::bf16()),
    ]
}

#[test]
fn honest_models_train_as_without_it() {
    let device = Device::flex().autodiff();
    let net = undrawn(Net::new(How::Val, &device));
    let mlp = undrawn(Mlp::new(2, &device));
    for strategy in strategies() {
        changes_nothing(&strategy, &net, |net, x| net.forward(x).square().mean());
        changes_nothing(&strategy, &mlp, |mlp, x| {
            let ones = Tensor::ones([4, 1], &x.device());
            mlp.forward(Tensor::cat(vec![x, ones], 1)).square().mean()
        });
    }
}

#[test]
fn dropout_that_replays_is_checked_and_passes() {
    let device = Device::flex().autodiff();
    let encoder = TransformerEncoderConfig::new(6, 8, 2, 2).with_dropout(0.3);
    let encoder = undrawn(encoder.init(&device));
    for strategy in strategies() {
        changes_nothing(&strategy, &encoder, |encoder, x| {
            let y = unit(encoder, x, |encoder: &TransformerEncoder, x: Tensor<2>| {
                encoder.forward(TransformerEncoderInput::new(x.unsqueeze()))
            });
            y.square().mean()
        });
    }
}

/// Running state, which each forward in training changes.
#[derive(Module, Debug)]
struct Normed {
    enter: Linear,
    norm: BatchNorm,
}

#[test]
fn running_state_is_not_touched() {
    let device = Device::flex().autodiff();
    let model = undrawn(cast(
        Normed {
            enter: LinearConfig::new(6, 5).init(&device),
            norm: BatchNormConfig::new(5).init(&device),
        },
        FloatDType::F32,
    ));
    changes_nothing(&Strategy::fsdp(), &model, |model, x| {
        let y = unit(model, x, |model: &Normed, x| {
            model.norm.forward(model.enter.forward(x))
        });
        y.powi_scalar(3).mean()
    });
}

/// Draws from Burn's generator: not to be called wrong.
#[derive(Module, Debug)]
struct Drops {
    linear: Linear,
    dropout: Dropout,
}

#[test]
fn a_unit_that_draws_from_burns_generator_is_left_out() {
    let run = |world: World| {
        let model = Drops {
            linear: LinearConfig::new(6, 6).init(&world.device()),
            dropout: DropoutConfig::new(0.5).init(),
        };
        let model = Strategy::fsdp().check_units(true).shard(model, &world)?;
        world.run(|| {
            drop(unit(&model, input(&world), |model: &Drops, x| {
                model.dropout.forward(model.linear.forward(x))
            }));
        })
    };
    ranks(2).run(run).unwrap();
}

/// A closure may own another sharded model, such as a teacher; there is no plain copy of that one.
#[test]
fn a_unit_that_reads_another_sharded_model_is_left_out() {
    let run = |world: World| {
        let strategy = || Strategy::fsdp().check_units(true);
        let teacher = strategy().shard(Net::new(How::Val, &world.device()), &world)?;
        let model = strategy().shard(Net::new(How::Val, &world.device()), &world)?;
        let y = world.run(|| {
            unit(&model, input(&world), move |net: &Net, x: Tensor<2>| {
                net.forward(x.clone()) - teacher.forward(x)
            })
        })?;
        let _ = world.backward(y.square().mean(), &model)?;
        Ok(())
    };
    ranks(2).run(run).unwrap();
}
