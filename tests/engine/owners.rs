//! Optimizers that need whole parameters, on shards, against Burn's own step with the same gradients.

use crate::oracle;
use crate::oracle::Mlp;
use crate::states::{States, states};
use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{
    AdafactorConfig, AdamWConfig, GradientsParams, LambConfig, ModuleOptimizer, MuonConfig,
};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_dist::comm::Op;
use burn_dist::{Destination, Error, Precision, Result, Stepper, Strategy, World, unit};
use std::collections::{BTreeMap, VecDeque};

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

/// Of a vector it looks at the whole only to clip its update.
fn adafactor_at_a_rate() -> ModuleOptimizer {
    let adafactor = AdafactorConfig::new().with_relative_step(false);
    adafactor.with_scale_parameter(false).init()
}

type Make = fn() -> ModuleOptimizer;
const OPTIMIZERS: [(&str, Make); 4] = [
    ("muon", muon),
    ("lamb", lamb),
    ("adafactor", adafactor),
    ("adafactor at a rate", adafactor_at_a_rate),
];

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
    loss_of(model, x, step)
}

/// As large as it is in no other step, or gradients would be alike and no update clipped.
fn loss_of(model: &Mlp, x: Tensor<2>, step: usize) -> Tensor<1> {
    let scale = [1.0, 0.2, 5.0][step % 3];
    model.forward(x).powi_scalar(2).mean() * scale
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

/// How many ranks share a parameter.
fn group(strategy: &Strategy, size: usize) -> usize {
    if *strategy == Strategy::hybrid(2) {
        2
    } else {
        size
    }
}

/// What the rank of this number among those that share a parameter has of the states of what some rank steps whole; and
/// what it should have: those that it owns, as one device has them, and no others.
fn of_owned(rank: usize, stepper: &Stepper, found: &States, all: &States) -> (States, States) {
    let owned: BTreeMap<_, _> = stepper.owners().collect();
    let is_mine = |path: &str| owned.get(path) == Some(&rank);
    (found.of(|path| owned.contains_key(path)), all.of(is_mine))
}

#[test]
fn ten_steps_have_the_bits_of_burns_own() {
    let device = Device::flex().autodiff();
    let start = oracle::undrawn(Mlp::new(3, &device));
    for (name, make) in OPTIMIZERS {
        for size in 1..=4 {
            for strategy in strategies(size) {
                let what = format!("{name}, {strategy} at {size}");
                let folder = tempfile::tempdir().unwrap();
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
                    let expected = states(&reference, &plain);
                    let found = states(stepper.optimizer(), &model);
                    let rank = world.rank() % group(&strategy, size);
                    let (found, kept) = of_owned(rank, &stepper, &found, &expected);
                    assert_eq!(found, kept, "{what}");
                    world.save(folder.path(), &model, stepper.optimizer(), &10)?;
                    Ok(expected)
                };
                let expected = oracle::ranks(size)
                    .run(run)
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                // All states are whole in a save, those of what is stepped on shards too.
                let loaded = oracle::ranks(1).run(|world| {
                    let model = Strategy::single().shard(start.clone(), &world)?;
                    let optimizer = world.stepper(make(), &model)?.into_optimizer();
                    let loaded = world.load(folder.path(), model, optimizer)?;
                    let (model, optimizer, _): (_, _, usize) = loaded;
                    Ok(states(&optimizer, &model))
                });
                let loaded = loaded.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(loaded[0], expected[0], "{what}");
            }
        }
    }
}

#[test]
fn a_whole_batch_on_one_device_comes_to_the_same() {
    let device = Device::flex().autodiff();
    let start = oracle::cast(oracle::undrawn(Mlp::new(3, &device)), FloatDType::F64);
    for (name, make) in OPTIMIZERS {
        let (mut plain, mut optimizer) = (start.clone(), make());
        for step in 0..10 {
            let x = oracle::tensor(&oracle::batch(24, 7, step), DType::F64, &device);
            let loss = loss_of(&plain, x, step);
            let grads = GradientsParams::from_grads(loss.backward(), &plain);
            plain = optimizer.step(RATE, plain, grads);
        }
        let (expected, kept) = (oracle::values(&plain), states(&optimizer, &plain));
        assert!(!kept.tensors.is_empty(), "{name}");
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
                    let found = states(stepper.optimizer(), &model);
                    let rank = world.rank() % group(&strategy, size);
                    let (found, kept) = of_owned(rank, &stepper, &found, &kept);
                    assert_eq!(found.numbers, kept.numbers, "{what}");
                    oracle::close(&what, &found.tensors, &kept.tensors, 1e-9);
                    Ok(oracle::values(
                        &world.full(&model, Destination::All)?.unwrap(),
                    ))
                };
                let found = oracle::ranks(size)
                    .run(run)
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                for found in &found {
                    oracle::close(&what, found, &expected, 1e-9);
                }
            }
        }
    }
}

#[test]
fn an_element_wise_optimizer_has_no_owners_and_costs_nothing() {
    let adamw = || AdamWConfig::new().with_weight_decay(0.01).init();
    for size in [1, 3] {
        let runs = oracle::ranks(size)
            .run(|world| {
                let mut runs = Vec::new();
                for by_stepper in [false, true] {
                    let model = oracle::undrawn(Mlp::new(2, &world.device()));
                    let mut model = Strategy::fsdp().shard(model, &world)?;
                    let mut optimizer = world.optimizer(adamw(), &model)?;
                    let mut stepper = world.stepper(adamw(), &model)?;
                    assert_eq!(stepper.owners().count(), 0);
                    world.ledger().reset();
                    for step in 0..3 {
                        let grads = world
                            .backward(loss(&world, &model, step, DType::F32), &model)?
                            .into_params();
                        model = if by_stepper {
                            stepper.step(RATE, model, grads)?
                        } else {
                            optimizer.step(RATE, model, grads)
                        };
                    }
                    let sent = world.ledger().entries().into_iter();
                    let sent = sent.map(|(op, name, all)| (op, name, all.calls, all.bytes));
                    let sent: Vec<_> = sent.collect();
                    let kept = if by_stepper {
                        states(stepper.optimizer(), &model)
                    } else {
                        states(&optimizer, &model)
                    };
                    let full = world.full(&model, Destination::All)?.unwrap();
                    runs.push((oracle::values(&full), kept, sent));
                }
                Ok(runs)
            })
            .unwrap();
        for runs in runs {
            assert!(runs[0] == runs[1], "another run at {size}");
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
                let counted = world.ledger().total(Op::AllToAll);
                let planned = stepper.traffic();
                assert_eq!(planned.op, Op::AllToAll);
                let planned = (planned.calls as u64, planned.bytes as u64);
                assert_eq!((counted.calls, counted.bytes), planned);
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
    // LAMB and Adafactor own every parameter, so none is left for a plain step to change.
    for (name, make) in OPTIMIZERS {
        for (size, precision) in [(2, Precision::full()), (4, Precision::bf16())] {
            let error = oracle::ranks(size)
                .run(|world| {
                    let strategy = Strategy::fsdp().precision(precision);
                    let mut model = strategy.shard(Mlp::new(2, &world.device()), &world)?;
                    let _stepper = world.stepper(make(), &model)?;
                    let mut optim = make();
                    for step in 0..2 {
                        let grads =
                            world.backward(loss(&world, &model, step, DType::F32), &model)?;
                        model = optim.step(RATE, model, grads.into_params());
                    }
                    Ok(())
                })
                .expect_err(name);
            let text = error.to_string();
            assert!(text.contains("stepper.step"), "{name} on {size}: {text}");
        }
    }
}

#[test]
fn one_parameter_that_is_owned_is_enough_to_tell_a_plain_step() {
    let error = oracle::ranks(2)
        .run(|world| {
            let only = LinearConfig::new(6, 4).with_bias(false);
            let mut model = Strategy::fsdp().shard(only.init(&world.device()), &world)?;
            let _stepper = world.stepper(MuonConfig::new().init(), &model)?;
            let mut optim = MuonConfig::new().init();
            for _ in 0..2 {
                let x = Tensor::<2>::ones([2, 6], &world.device());
                let y = unit(&model, x, |model: &Linear, x| model.forward(x));
                let grads = world.backward(y.mean(), &model)?;
                model = optim.step(RATE, model, grads.into_params());
            }
            Ok(())
        })
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("weight") && text.contains("stepper.step"),
        "{text}"
    );
}

#[test]
fn a_skipped_step_is_none_and_a_refusal_names_the_stepper() {
    for (name, make) in OPTIMIZERS {
        let run = |world: World| {
            let mut model = Strategy::fsdp().shard(Mlp::new(2, &world.device()), &world)?;
            let refused = world.optimizer(make(), &model).err().unwrap();
            assert!(matches!(refused, Error::Optimizer { .. }), "{refused}");
            assert!(refused.to_string().contains("world.stepper"), "{refused}");
            let mut stepper = world.stepper(make(), &model)?;
            for step in 0..4 {
                let grads = world.backward(loss(&world, &model, step, DType::F32), &model)?;
                let grads = grads.into_params();
                if step % 2 == 0 {
                    model = stepper.step(RATE, model, grads)?;
                }
            }
            let found = world.full(&model, Destination::All)?.unwrap();
            for (path, values) in oracle::values(&found) {
                assert!(values.iter().all(|value| value.is_finite()), "{path}");
            }
            Ok(())
        };
        oracle::ranks(2)
            .run(run)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
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
