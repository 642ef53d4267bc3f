//! A batch norm over all ranks, and running state in units that run twice.

use crate::oracle::{self, cast, close, undrawn, values};
use burn::module::Module;
use burn::nn as burns;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::nn::{Linear, LinearConfig, SyncBatchNorm, SyncBatchNormConfig};
use burn_dist::{Destination, Strategy, unit};

fn device() -> Device {
    Device::flex().autodiff()
}

/// Images of two channels with a batch norm over all ranks between two linear layers.
#[derive(Module, Debug)]
struct Normed<N: Module> {
    enter: Linear,
    norms: Vec<N>,
    leave: Linear,
}

impl<N: Module> Normed<N> {
    fn new(norm: impl Fn() -> N) -> Self {
        Self {
            enter: LinearConfig::new(7, 6).init(&device()),
            norms: vec![norm(), norm()],
            leave: LinearConfig::new(6, 2).init(&device()),
        }
    }

    fn loss(&self, x: Tensor<2>, norm: impl Fn(&N, Tensor<3>) -> Tensor<3>) -> Tensor<1> {
        let [rows, _] = x.dims();
        let mut x = self.enter.forward(x);
        for layer in &self.norms {
            let y = norm(layer, x.clone().reshape([rows, 3, 2]));
            x = x + gelu(y.reshape([rows, 6]));
        }
        // Summed over samples, so that ranks may have unequal numbers of them.
        self.leave.forward(x).powi_scalar(2).sum()
    }
}

/// Shares of 24 rows that differ between ranks.
fn share(rank: usize, size: usize) -> std::ops::Range<usize> {
    let cut = |rank: usize| {
        if rank == size {
            24
        } else {
            (rank * rank * 24) / (size * size)
        }
    };
    cut(rank)..cut(rank + 1)
}

#[test]
fn a_batch_norm_over_ranks_equals_one_device_with_the_whole_batch() {
    let plain = undrawn(cast(
        Normed::new(|| burns::BatchNormConfig::new(3).init(&device())),
        FloatDType::F64,
    ));
    let rows = |step, range: std::ops::Range<usize>| {
        let all = oracle::tensor::<2>(&oracle::batch(24, 7, step), DType::F64, &device());
        all.narrow(0, range.start, range.len())
    };
    // Running state is shared by clones, so that a record of the start is kept.
    let start = plain.valid().into_record();
    let (mut model, mut sgd, mut losses) = (plain, SgdConfig::new().init(), Vec::new());
    for step in 0..3 {
        let loss = model.loss(rows(step, 0..24), |norm, x| norm.forward(x)) * (1.0 / 24.0);
        losses.push(oracle::scalar(&loss));
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = sgd.step(0.1, model, grads);
    }
    let expected = values(&model.valid());
    for size in [1, 2, 3] {
        for strategy in oracle::strategies(size) {
            for recompute in [false, true] {
                let strategy = strategy.clone().recompute(recompute);
                let what = format!("{strategy} at world {size}, recomputed: {recompute}");
                let run = |world: burn_dist::World| {
                    let norm = || SyncBatchNormConfig::new(3).init(&world);
                    let model = cast(Normed::new(norm), FloatDType::F64);
                    let model = model.valid().load_record(start.clone()).train();
                    let mut model = strategy.clone().shard(model, &world)?;
                    let mut sgd = world.optimizer(SgdConfig::new().init(), &model)?;
                    let (mine, mut losses) = (share(world.rank(), size), Vec::new());
                    for step in 0..3 {
                        let x = rows(step, mine.clone());
                        let loss = world.run(|| {
                            unit(&model, x, |model: &Normed<SyncBatchNorm>, x| {
                                model.loss(x, |norm, x| unit(norm, x, SyncBatchNorm::forward))
                            })
                        })?;
                        losses.push(oracle::scalar(&loss) / 24.0);
                        let grads = world.backward_sum(loss, mine.len(), &model)?;
                        model = sgd.step(0.1, model, grads.into_params());
                    }
                    let full = world.full(&model, Destination::All)?.unwrap();
                    Ok((losses, values(&full.valid())))
                };
                let found = oracle::ranks(size).run(run).unwrap();
                for (_, found) in &found {
                    close(&what, found, &expected, 1e-9);
                }
                for (step, loss) in losses.iter().enumerate() {
                    let sum: f64 = found.iter().map(|(losses, _)| losses[step]).sum();
                    assert!((sum - loss).abs() < 1e-9 * loss, "{what}");
                }
            }
        }
    }
}

/// A unit that is recomputed runs twice in a step, and notes its batch once.
#[test]
fn recomputation_notes_no_batch_twice() {
    let norm = || burns::BatchNormConfig::new(3).init(&device());
    let run = |recompute| {
        let run = |world: burn_dist::World| {
            let model = undrawn(Normed::new(norm));
            let strategy = Strategy::fsdp().recompute(recompute);
            let model = strategy.replicate(["norms"]).shard(model, &world)?;
            for step in 0..2 {
                let rows = oracle::rows(&oracle::batch(24, 7, step), world.rank(), 2);
                let x = oracle::tensor(&rows, DType::F32, &device());
                let loss = unit(&model, x, |model: &Normed<burns::BatchNorm>, x| {
                    model.loss(x, |norm, x| unit(norm, x, burns::BatchNorm::forward))
                });
                let _ = world.backward(loss, &model)?;
            }
            let full = world.full(&model, Destination::All)?.unwrap();
            Ok(values(&full.valid()))
        };
        oracle::ranks(2).run(run).unwrap().remove(0)
    };
    assert_eq!(run(true), run(false));
}
