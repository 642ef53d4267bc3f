//! Optimizers that need whole parameters, on shards, against Burn's own step with the same gradients.

use crate::oracle;
use crate::oracle::Mlp;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::{
    AdafactorConfig, AdamWConfig, GradientsParams, LambConfig, ModuleOptimizer, MuonConfig,
};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_dist::comm::Op;
use burn_dist::{Destination, Error, Result, Strategy, World};
use std::collections::VecDeque;

const RATE: f64 = 0.01;

/// Muon for matrices, AdamW for the rest.
fn muon() -> ModuleOptimizer {
    let rest = AdamWConfig::new().with_weight_decay(0.01).init();
    let matrices = ParamGroup::from_predicate(".weight");
    rest.with_group(matrices, MuonConfig::new().build(), None)
}

fn lamb() -> ModuleOptimizer {
    LambConfig::new().init()
}

fn adafactor() -> ModuleOptimizer {
    AdafactorConfig::new().init()
}

type Make = fn() -> ModuleOptimizer;
const OPTIMIZERS: [(&str, Make); 3] = [("muon", muon), ("lamb", lamb), ("adafactor", adafactor)];

fn strategies(size: usize) -> Vec<Strategy> {
    let mut all = vec![Strategy::zero1(), Strategy::zero2(), Strategy::fsdp()];
    if size == 4 {
        all.push(Strategy::hybrid(2));
    }
    all
}

/// The gradients that a model holds in place of parameters, for another one with the same parameters.
fn gradients_of<M: Module>(holding: &M, model: &M) -> GradientsParams {
    #[derive(Default)]
    struct Take(VecDeque<TensorData>);
    impl ModuleVisitor for Take {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push_back(param.base().into_data());
        }
    }
    struct Give(VecDeque<TensorData>, GradientsParams);
    impl ModuleVisitor for Give {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = self.0.pop_front().unwrap();
            let dtype = data.dtype();
            let tensor = Tensor::<D>::from_data(data, (&Device::flex(), dtype));
            self.1.register(param.id, tensor);
        }
    }
    let mut take = Take::default();
    holding.visit(&mut take);
    let mut give = Give(take.0, GradientsParams::new());
    model.visit(&mut give);
    give.1
}

fn loss(world: &World, model: &Mlp, step: usize, dtype: DType) -> Tensor<1> {
    let mine = oracle::rows(&oracle::batch(24, 7, step), world.rank(), world.size());
    let x: Tensor<2> = oracle::tensor(&mine, dtype, &world.device());
    model.forward(x).powi_scalar(2).mean()
}

/// The step's gradients whole, from a model with the numbers of `plain` that has no stepper.
fn whole_gradients(
    world: &World,
    strategy: &Strategy,
    plain: &Mlp,
    step: usize,
) -> Result<GradientsParams> {
    let twin = strategy
        .clone()
        .shard(oracle::cast(plain.clone(), FloatDType::F32), world)?;
    let grads = world.backward(loss(world, &twin, step, DType::F32), &twin)?;
    let holding = oracle::holding(&twin, &grads.into_params());
    let full = world.full(&holding, Destination::All)?;
    Ok(gradients_of(&full.unwrap(), plain))
}

#[test]
fn ten_steps_have_the_bits_of_burns_own() {
    let device = Device::flex().autodiff();
    let start = oracle::undrawn(Mlp::new(3, &device));
    for (name, make) in OPTIMIZERS {
        for size in 1..=4 {
            for strategy in strategies(size) {
                let what = format!("{name}, {strategy} at {size}");
                let run = |world: World| {
                    let mut plain = oracle::cast(start.clone(), FloatDType::F32);
                    let model = oracle::cast(start.clone(), FloatDType::F32);
                    let mut model = strategy.clone().shard(model, &world)?;
                    let (mut reference, mut stepper) = (make(), world.stepper(make(), &model)?);
                    assert_eq!(stepper.owners().count() > 0, size > 1, "{what}");
                    for step in 0..10 {
                        let whole = whole_gradients(&world, &strategy, &plain, step)?;
                        plain = reference.step(RATE, plain, whole);
                        let grads =
                            world.backward(loss(&world, &model, step, DType::F32), &model)?;
                        model = stepper.step(RATE, model, grads.into_params())?;
                        let found = world.full(&model, Destination::All)?.unwrap();
                        assert_eq!(
                            oracle::values(&found),
                            oracle::values(&plain),
                            "{what}, step {step}"
                        );
                    }
                    Ok(())
                };
                oracle::ranks(size)
                    .run(run)
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
            }
        }
    }
}

#[test]
fn a_whole_batch_on_one_device_comes_to_the_same() {
    let device = Device::flex().autodiff();
    let start = oracle::cast(oracle::undrawn(Mlp::new(3, &device)), FloatDType::F64);
    for (name, make) in OPTIMIZERS {
        let expected = oracle::plain(start.clone(), make(), 10, RATE, |model, step| {
            let x = oracle::tensor(&oracle::batch(24, 7, step), DType::F64, &device);
            model.forward(x).powi_scalar(2).mean()
        });
        for size in 1..=4 {
            for strategy in strategies(size) {
                let what = format!("{name}, {strategy} at {size}");
                let run = |world: World| {
                    let mut model = strategy.clone().shard(start.clone(), &world)?;
                    let mut stepper = world.stepper(make(), &model)?;
                    for step in 0..10 {
                        let grads =
                            world.backward(loss(&world, &model, step, DType::F64), &model)?;
                        model = stepper.step(RATE, model, grads.into_params())?;
                    }
                    Ok(oracle::values(
                        &world.full(&model, Destination::All)?.unwrap(),
                    ))
                };
                let found = oracle::ranks(size)
                    .run(run)
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                for found in &found {
                    oracle::close(&what, found, &expected.parameters, 1e-9);
                }
            }
        }
    }
}

#[test]
fn the_matrices_cross_the_links_at_most_twice() {
    for size in 2..=4 {
        let sent = oracle::ranks(size)
            .run(|world| {
                let model = oracle::undrawn(Mlp::new(3, &world.device()));
                let mut model = Strategy::fsdp().shard(model, &world)?;
                let mut stepper = world.stepper(muon(), &model)?;
                let mut sent = 0;
                for step in 0..3 {
                    let grads = world.backward(loss(&world, &model, step, DType::F32), &model)?;
                    world.ledger().reset();
                    model = stepper.step(RATE, model, grads.into_params())?;
                    sent = world.ledger().total(Op::AllToAll).bytes;
                }
                Ok(sent)
            })
            .unwrap();
        let matrices = 4 * (7 * 15 + 3 * 15 * 15 + 15 * 3) as u64;
        let (n, all) = (size as u64, sent.iter().sum::<u64>());
        assert!(all > 0 && all <= 2 * matrices, "{sent:?} of {matrices}");
        let most = 2 * (n - 1) * matrices / n;
        assert!(
            sent.iter().all(|sent| *sent <= most),
            "{sent:?}, at most {most}"
        );
    }
}

#[test]
fn a_plain_step_beside_a_stepper_is_an_error() {
    let error = oracle::ranks(2)
        .run(|world| {
            let mut model = Strategy::fsdp().shard(Mlp::new(2, &world.device()), &world)?;
            let _stepper = world.stepper(muon(), &model)?;
            let mut optim = muon();
            for step in 0..3 {
                let grads = world.backward(loss(&world, &model, step, DType::F32), &model)?;
                model = optim.step(RATE, model, grads.into_params());
            }
            Ok(())
        })
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("stepper.step"), "{text}");
}

#[test]
fn a_skipped_step_is_none_and_a_refusal_names_the_stepper() {
    oracle::ranks(2)
        .run(|world| {
            let mut model = Strategy::fsdp().shard(Mlp::new(2, &world.device()), &world)?;
            let refused = world.optimizer(muon(), &model).err().unwrap();
            assert!(matches!(refused, Error::Optimizer { .. }), "{refused}");
            assert!(refused.to_string().contains("world.stepper"), "{refused}");
            let mut stepper = world.stepper(muon(), &model)?;
            for step in 0..4 {
                let grads = world.backward(loss(&world, &model, step, DType::F32), &model)?;
                let grads = grads.into_params();
                if step % 2 == 0 {
                    model = stepper.step(RATE, model, grads)?;
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_run_that_is_saved_goes_on_with_the_same_bits() {
    for (name, make) in OPTIMIZERS {
        let folder = tempfile::tempdir().unwrap();
        let train = |world: &World, mut model: Mlp, optimizer, steps: std::ops::Range<usize>| {
            let mut stepper = world.stepper(optimizer, &model)?;
            for step in steps {
                let grads = world.backward(loss(world, &model, step, DType::F32), &model)?;
                model = stepper.step(RATE, model, grads.into_params())?;
            }
            Ok::<_, Error>((model, stepper))
        };
        let start = |world: &World, strategy: Strategy| {
            let model = oracle::undrawn(Mlp::new(2, &world.device()));
            strategy.shard(model, world)
        };
        let values = |world: &World, model: &Mlp| {
            let full = world.full(model, Destination::All)?;
            Ok::<_, Error>(oracle::values(&full.unwrap()))
        };
        let straight = oracle::ranks(3)
            .run(|world| {
                let model = start(&world, Strategy::fsdp())?;
                let (model, stepper) = train(&world, model, make(), 0..3)?;
                world.save(folder.path(), &model, stepper.optimizer(), &3)?;
                let (model, _) = train(&world, model, stepper.into_optimizer(), 3..6)?;
                values(&world, &model)
            })
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        for strategy in [Strategy::fsdp(), Strategy::zero1()] {
            let resumed = oracle::ranks(3)
                .run(|world| {
                    let model = start(&world, strategy.clone())?;
                    let stepper = world.stepper(make(), &model)?;
                    let optimizer = stepper.into_optimizer();
                    let loaded = world.load(folder.path(), model, optimizer)?;
                    let (model, optimizer, _): (_, _, usize) = loaded;
                    let (model, _) = train(&world, model, optimizer, 3..6)?;
                    values(&world, &model)
                })
                .unwrap_or_else(|e| panic!("{name}, {strategy}: {e}"));
            assert_eq!(resumed, straight, "{name}, {strategy}");
        }
        // On other numbers of ranks gradients are added in another order.
        for size in [1, 2] {
            let resumed = oracle::ranks(size)
                .run(|world| {
                    let model = start(&world, Strategy::fsdp())?;
                    let stepper = world.stepper(make(), &model)?;
                    let optimizer = stepper.into_optimizer();
                    let loaded = world.load(folder.path(), model, optimizer)?;
                    let (model, optimizer, _): (_, _, usize) = loaded;
                    let (model, _) = train(&world, model, optimizer, 3..6)?;
                    values(&world, &model)
                })
                .unwrap_or_else(|e| panic!("{name} on {size}: {e}"));
            oracle::close(name, &resumed[0], &straight[0], 1e-3);
        }
    }
}
