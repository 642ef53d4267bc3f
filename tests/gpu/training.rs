//! Every strategy on a GPU compared with one plain GPU, and that one with the CPU.

use crate::oracle::{self, Mlp, Trace};
use crate::place::{cpu, gpu, ranks};
use crate::tower;
use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, Device, Tensor};
use burn_dist::launch::DeviceKind;
use burn_dist::{Destination, Error, Shadow, Strategy, World, unit};

const ROWS: usize = 12;
const STEPS: usize = 3;
/// Ranks against one plain GPU, as a share of the largest element: sums are ordered differently.
const RANKS: f64 = 2e-5;
/// A GPU against the CPU: its `erf` and `exp` are approximations of their own.
const DEVICES: f64 = 5e-3;

fn loss(model: &Mlp, x: Tensor<2>) -> Tensor<1> {
    model.forward(x).powi_scalar(2).mean()
}

fn adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_epsilon(1e-3).init()
}

/// Plain Burn with the whole batch, on one GPU; compared with the CPU.
fn reference(kind: DeviceKind, model: &Mlp) -> Trace {
    let plain = |device: Device| {
        let model = model.clone().fork(&device);
        oracle::plain(model, adamw(), STEPS, 1e-2, |model, step| {
            let all = oracle::batch(ROWS, 7, step);
            loss(model, oracle::tensor(&all, DType::F32, &device))
        })
    };
    let found = plain(kind.device(0).unwrap().autodiff());
    assert_same("one plain GPU", &found, &plain(cpu()), DEVICES);
    found
}

fn mine(world: &World, step: usize) -> Tensor<2> {
    let mine = oracle::rows(&oracle::batch(ROWS, 7, step), world.rank(), world.size());
    oracle::tensor(&mine, DType::F32, &world.device())
}

fn run(kind: DeviceKind, size: usize, strategy: &Strategy, model: &Mlp, passes: usize) -> Trace {
    let traces = ranks(size, kind).run(|world| {
        let model = model.clone().fork(&world.device());
        let model = strategy.clone().shard(model, &world)?;
        oracle::sharded(&world, model, adamw(), STEPS, 1e-2, |model, step| {
            let mut sums = world.accumulate(model)?;
            let x = mine(&world, step);
            let rows = x.dims()[0] / passes;
            let mut total = 0.0;
            for pass in 0..passes {
                let x = x.clone().narrow(0, pass * rows, rows);
                let loss = world.run(|| loss(model, x))?;
                total += oracle::scalar(&loss) / passes as f64;
                sums.add(loss)?;
            }
            Ok((total, sums.finish()?))
        })
    });
    let mut traces = traces.unwrap_or_else(|e| panic!("{strategy} at world {size}: {e}"));
    for step in 0..STEPS {
        let mean = traces.iter().map(|t| t.losses[step]).sum::<f64>() / size as f64;
        traces[0].losses[step] = mean;
    }
    traces.remove(0)
}

fn assert_same(what: &str, found: &Trace, expected: &Trace, within: f64) {
    for (found, wanted) in found.losses.iter().zip(&expected.losses) {
        assert!(
            (found - wanted).abs() <= within * wanted.abs(),
            "{what}: {found} for {wanted}"
        );
    }
    for (step, wanted) in expected.gradients.iter().enumerate() {
        let what = format!("{what}, gradients of step {step}");
        oracle::close(&what, &found.gradients[step], wanted, within);
    }
    oracle::close(what, &found.parameters, &expected.parameters, within);
}

#[test]
fn every_strategy_agrees_with_the_cpu() {
    let Some((kind, _alone)) = gpu() else { return };
    let model = oracle::undrawn(Mlp::new(2, &cpu()));
    let expected = reference(kind, &model);
    for size in 1..=3 {
        for strategy in oracle::strategies(size) {
            let what = format!("{strategy} at world {size}");
            assert_same(
                &what,
                &run(kind, size, &strategy, &model, 1),
                &expected,
                RANKS,
            );
        }
    }
}

#[test]
fn recomputed_and_accumulated_agrees_with_the_cpu() {
    let Some((kind, _alone)) = gpu() else { return };
    let model = oracle::undrawn(Mlp::new(2, &cpu()));
    let expected = reference(kind, &model);
    for strategy in oracle::strategies(2) {
        let strategy = strategy.recompute(true);
        assert_same(
            &format!("{strategy}"),
            &run(kind, 2, &strategy, &model, 2),
            &expected,
            RANKS,
        );
    }
}

/// Sgd and Adam leave their result in the parameter's own memory, which the next gather reads, and
/// nothing is read in between that would make it wait by chance.
#[test]
fn updates_in_place_are_seen_by_the_next_gather() {
    let Some((kind, _alone)) = gpu() else { return };
    let whole = oracle::undrawn(Mlp::new(3, &cpu()));
    let device = kind.device(0).unwrap().autodiff();
    // On the GPU the update waits for this while the host goes on; a driver on the CPU would be too slow.
    let side = if kind == DeviceKind::Cuda { 2048 } else { 32 };
    for name in ["sgd", "adam"] {
        let optimizer = || match name {
            "sgd" => SgdConfig::new().init(),
            _ => AdamConfig::new().with_epsilon(1e-3).init(),
        };
        let mut plain = (whole.clone().fork(&device), optimizer());
        for step in 0..2 * STEPS {
            let x = oracle::tensor(&oracle::batch(ROWS, 7, step), DType::F32, &device);
            let grads = GradientsParams::from_grads(loss(&plain.0, x).backward(), &plain.0);
            plain.0 = plain.1.step(1e-2, plain.0, grads);
        }
        let expected = oracle::values(&plain.0);
        for strategy in oracle::strategies(2) {
            let what = format!("{name}, {strategy}");
            let ran = ranks(2, kind).run(|world| {
                let model = whole.clone().fork(&world.device());
                let mut model = strategy.clone().shard(model, &world)?;
                let mut optimizer = world.optimizer(optimizer(), &model)?;
                for step in 0..2 * STEPS {
                    let loss = world.run(|| loss(&model, mine(&world, step)))?;
                    let grads = world.backward(loss, &model)?.into_params();
                    let _busy = tower::delay(&world.device(), side, 20);
                    model = optimizer.step(1e-2, model, grads);
                }
                let full = world.full(&model, Destination::All)?;
                Ok(oracle::values(&full.unwrap()))
            });
            let found = ran.unwrap_or_else(|e| panic!("{what}: {e}"));
            oracle::close(&what, &found[1], &expected, RANKS);
        }
    }
}

#[test]
fn frozen_parameters_stay_and_norms_are_global() {
    let Some((kind, _alone)) = gpu() else { return };
    let mut model = oracle::undrawn(Mlp::new(2, &cpu()));
    model.blocks[0] = model.blocks[0].clone().freeze();
    let device = kind.device(0).unwrap().autodiff();
    let all = oracle::tensor(&oracle::batch(ROWS, 7, 0), DType::F32, &device);
    let plain = model.clone().fork(&device);
    let grads = GradientsParams::from_grads(loss(&plain, all).backward(), &plain);
    let expected = oracle::values(&oracle::holding(&plain, &grads));
    let norm = expected
        .values()
        .flatten()
        .map(|x| x * x)
        .sum::<f64>()
        .sqrt();
    for size in 1..=3 {
        for strategy in oracle::strategies(size) {
            let what = format!("{strategy} at world {size}");
            let ran = ranks(size, kind).run(|world| {
                let model = model.clone().fork(&world.device());
                let model = strategy.clone().shard(model, &world)?;
                let loss = world.run(|| loss(&model, mine(&world, 0)))?;
                let grads = world.backward(loss, &model)?;
                assert!(grads.all_finite()?);
                let found = grads.norm()?;
                assert!(
                    (found - norm).abs() < RANKS * norm,
                    "{what}: {found} for {norm}"
                );
                let clipped = grads.clip_norm(norm / 2.0)?;
                let model = oracle::holding(&model, &clipped.grads);
                Ok(oracle::values(
                    &world.full(&model, Destination::All)?.unwrap(),
                ))
            });
            let found = ran.unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut halved = expected.clone();
            halved.values_mut().flatten().for_each(|x| *x *= 0.5);
            oracle::close(&what, &found[0], &halved, RANKS);
        }
    }
}

#[test]
fn an_overflow_is_seen_on_every_rank() {
    let Some((kind, _alone)) = gpu() else { return };
    let model = oracle::undrawn(Mlp::new(1, &cpu()));
    let found = ranks(2, kind).run(|world| {
        let model = Strategy::fsdp().shard(model.clone().fork(&world.device()), &world)?;
        let huge = if world.rank() == 1 {
            f32::INFINITY
        } else {
            1.0
        };
        let loss = world.run(|| loss(&model, mine(&world, 0)) * huge)?;
        let grads = world.backward(loss, &model)?;
        let norm = grads.norm();
        Ok((
            grads.all_finite()?,
            matches!(norm, Err(Error::NotFinite { .. })),
        ))
    });
    assert_eq!(found.unwrap(), [(false, true), (false, true)]);
}

#[test]
fn a_model_on_another_device_is_refused() {
    let Some((kind, _alone)) = gpu() else { return };
    for size in 1..=2 {
        let refused = ranks(size, kind).run(|world| {
            let model = Strategy::fsdp().shard(Mlp::new(1, &cpu()), &world)?;
            world.run(|| model.forward(mine(&world, 0))).map(drop)
        });
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("init(&world.device())"), "{error}");
    }
}

/// A layer with running state, which every rank has whole and which is averaged.
#[derive(Module, Debug)]
struct Normed {
    layers: Vec<Linear>,
    norm: BatchNorm,
}

impl Normed {
    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        let y = unit(self, x, |net: &Self, x| {
            let x = net.layers.iter().fold(x, |x, l| l.forward(x));
            net.norm
                .forward(x.unsqueeze_dim::<3>(2))
                .squeeze_dim::<2>(2)
        });
        y.powi_scalar(2).mean()
    }
}

#[test]
fn running_state_is_averaged() {
    let Some((kind, _alone)) = gpu() else { return };
    let model = Normed {
        layers: vec![LinearConfig::new(7, 6).init(&cpu())],
        norm: BatchNormConfig::new(6).init(&cpu()),
    };
    let train = |device| {
        let ranks = ranks(2, DeviceKind::Cpu).device(device);
        ranks.run(|world| {
            let model = Strategy::fsdp().shard(model.clone().fork(&world.device()), &world)?;
            let loss = world.run(|| model.loss(mine(&world, 0)))?;
            let grads = world.backward(loss, &model)?.into_params();
            let model = SgdConfig::new().init().step(0.1, model, grads);
            let mut all = oracle::values(&world.full(&model, Destination::All)?.unwrap());
            // The rest is what a batch norm leaves of a gradient.
            all.retain(|path, _| path.contains("running"));
            assert_eq!(all.len(), 2);
            Ok(all)
        })
    };
    let (found, expected) = (train(kind).unwrap(), train(DeviceKind::Cpu).unwrap());
    assert_eq!(found[0], found[1]);
    oracle::close("running state", &found[0], &expected[0], RANKS);
}

#[test]
fn a_shadow_run_finds_no_deviation() {
    let Some((kind, _alone)) = gpu() else { return };
    let model = oracle::undrawn(Mlp::new(2, &cpu()));
    let compared = ranks(2, kind).run(|world| {
        let model = Strategy::fsdp().shard(model.clone().fork(&world.device()), &world)?;
        world.shadow(&model, Shadow::within(1e-4), 1, |model, step| {
            (
                model.forward(mine(&world, step)).powi_scalar(2).sum(),
                ROWS / 2,
            )
        })
    });
    assert!(compared.unwrap().iter().all(|c| c.units == 3));
}
