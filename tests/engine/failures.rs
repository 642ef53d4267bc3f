//! Failures inside a training: every rank ends soon, with an error that names the cause.
//!
//! Every world here is done long before its deadline, unless the deadline is what is tested.

use crate::oracle;
use crate::oracle::Mlp;
use crate::oracle::place::same_everywhere;
use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{
    AdamConfig, AdamWConfig, LambConfig, LionConfig, ModuleOptimizer, MuonConfig, RmsPropConfig,
    SgdConfig, momentum::MomentumConfig,
};
use burn::tensor::activation::gelu;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::launch::Threads;
use burn_dist::{Error, Result, Strategy, World, unit};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Every world is done within this time.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `f` on ranks that give up after a minute, and checks that they do not wait for that.
fn run<T: Send>(ranks: usize, f: impl Fn(World) -> Result<T> + Sync) -> Result<Vec<T>> {
    let start = Instant::now();
    let result = Threads::new(ranks).deadline(2 * LIMIT).run(f);
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    result
}

fn error<T: Send>(ranks: usize, f: impl Fn(World) -> Result<T> + Sync) -> Error {
    match run(ranks, f) {
        Ok(_) => panic!("the ranks succeeded"),
        Err(error) => error,
    }
}

fn mlp(world: &World) -> Mlp {
    oracle::cast(Mlp::new(6, &world.device()), FloatDType::F64)
}

fn sharded(world: &World) -> Result<Mlp> {
    Strategy::fsdp().shard(mlp(world), world)
}

fn input(world: &World, step: usize) -> Tensor<2> {
    let rows = oracle::rows(&oracle::batch(12, 7, step), world.rank(), world.size());
    oracle::tensor(&rows, DType::F64, &world.device())
}

fn square(x: Tensor<2>) -> Tensor<1> {
    x.powi_scalar(2).mean()
}

fn loss(world: &World, model: &Mlp) -> Tensor<1> {
    square(model.forward(input(world, 0)))
}

/// The forward of the test model, with `f` in place of its block 4.
fn with_middle(model: &Mlp, x: Tensor<2>, f: fn(&Linear, Tensor<2>) -> Tensor<2>) -> Tensor<1> {
    square(unit(model, x, move |mlp: &Mlp, x| {
        let mut x = gelu(mlp.first.forward(x));
        for (number, block) in mlp.blocks.iter().enumerate() {
            x = match number {
                4 => f(block, x),
                _ => unit(block, x, |b: &Linear, x| b.forward(x)),
            };
        }
        mlp.last.forward(x) * mlp.scale.val().unsqueeze()
    }))
}

fn middle(block: &Linear, x: Tensor<2>) -> Tensor<2> {
    unit(block, x, |b: &Linear, x| b.forward(x))
}

#[test]
fn a_panic_in_a_forward_ends_all_ranks() {
    let found = error(3, |world| {
        let model = sharded(&world)?;
        let broken: fn(&Linear, Tensor<2>) -> Tensor<2> = match world.rank() {
            1 => |block, x| unit(block, x, |_, _| panic!("no more luck")),
            _ => middle,
        };
        let loss = with_middle(&model, input(&world, 0), broken);
        world.backward(loss, &model).map(|_| ())
    });
    let Error::Panicked { rank: 1, message } = found else {
        panic!("{found}")
    };
    assert!(message.starts_with("no more luck (hint: in unit blocks.4"));
}

#[test]
fn the_other_ranks_name_the_one_that_panicked() {
    let seen = Mutex::new(Vec::new());
    let _ = error(3, |world| {
        let model = sharded(&world)?;
        if world.rank() == 2 {
            panic!("no more luck");
        }
        let result = world.run(|| loss(&world, &model)).map(|_| ());
        seen.lock().unwrap().extend(result.clone().err());
        result
    });
    let seen = seen.into_inner().unwrap();
    let expected = Error::PeerFailed {
        peer: 2,
        cause: "rank 2 panicked: no more luck".into(),
    };
    assert_eq!(seen, [expected.clone(), expected]);
}

#[test]
fn a_panic_between_steps_ends_all_ranks() {
    let found = error(2, |world| {
        let model = sharded(&world)?;
        for step in 0..4 {
            let loss = square(model.forward(input(&world, step)));
            let _ = world.backward(loss, &model)?;
            assert!(world.rank() == 0 || step < 2, "stopped at step {step}");
        }
        Ok(())
    });
    let (rank, message) = (1, "stopped at step 2".into());
    assert_eq!(found, Error::Panicked { rank, message });
}

#[test]
fn a_failure_in_a_backward_ends_all_ranks() {
    let found = error(2, |world| {
        let model = sharded(&world)?;
        let loss = loss(&world, &model);
        if world.rank() == 1 {
            // Fails on the tape, while the other rank's backward waits for this one.
            let _ = loss.backward();
            return Ok(());
        }
        world.backward(loss, &model).map(|_| ())
    });
    assert!(matches!(found, Error::Model { .. }), "{found}");
}

#[test]
fn a_rank_that_returns_early_is_named() {
    let found = error(3, |world| {
        let model = sharded(&world)?;
        if world.rank() == 1 {
            return Ok(());
        }
        world.backward(loss(&world, &model), &model).map(|_| ())
    });
    assert!(matches!(found, Error::PeerLeft { peer: 1, .. }), "{found}");
}

#[test]
fn a_rank_that_hangs_is_named() {
    // Longer than a busy machine delays a rank that does not hang.
    let ranks = Threads::new(2).deadline(Duration::from_millis(2500));
    let result = ranks.run(|world| {
        let model = sharded(&world)?;
        // Until the other one has given up, wherever that was.
        let since = Instant::now();
        while world.rank() == 1 && world.comm().fault().is_none() && since.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        world.backward(loss(&world, &model), &model).map(|_| ())
    });
    let Err(Error::Timeout { rank, missing, .. }) = result else {
        panic!("{result:?}");
    };
    assert_eq!((rank, missing), (0, vec![1]));
}

#[test]
fn a_unit_that_one_rank_skips_is_named() {
    let found = error(3, |world| {
        let model = sharded(&world)?;
        let skips: fn(&Linear, Tensor<2>) -> Tensor<2> = match world.rank() {
            1 => |_, x| x,
            _ => middle,
        };
        let loss = with_middle(&model, input(&world, 0), skips);
        world.backward(loss, &model).map(|_| ())
    });
    let message = found.to_string();
    assert!(
        matches!(found, Error::Mismatch { peer: 1, .. }),
        "{message}"
    );
    assert!(message.contains("blocks."), "{message}");
    assert!(message.contains("only some ranks run"), "{message}");
}

#[test]
fn a_parameter_that_one_rank_does_not_reach_is_named_by_every_rank() {
    for strategy in [
        Strategy::ddp(),
        Strategy::zero1(),
        Strategy::zero2(),
        Strategy::fsdp(),
        Strategy::fsdp().persistence_threshold(20),
        Strategy::zero2().no_sync(true).persistence_threshold(20),
    ] {
        let seen = Mutex::new(Vec::new());
        let _ = error(3, |world| {
            let model = strategy.clone().shard(mlp(&world), &world)?;
            let unbiased: fn(&Linear, Tensor<2>) -> Tensor<2> = match world.rank() {
                2 => |block, x| unit(block, x, |b: &Linear, x| x.matmul(b.weight.val())),
                _ => middle,
            };
            let loss = with_middle(&model, input(&world, 0), unbiased);
            let result = world.backward(loss, &model).map(|_| ());
            seen.lock().unwrap().extend(result.clone().err());
            result
        });
        let expected = Error::GradientSet {
            parameter: "blocks.4.bias".into(),
            with: 0,
            without: 2,
        };
        assert_eq!(seen.into_inner().unwrap(), vec![expected; 3], "{strategy}");
    }
}

#[test]
fn different_models_are_refused_at_shard() {
    let found = error(3, |world| {
        let width = if world.rank() == 2 { 9 } else { 8 };
        let model = LinearConfig::new(width, 4).init(&world.device());
        Strategy::fsdp().shard(model, &world).map(|_| ())
    });
    let Error::Model { path, problem, .. } = &found else {
        panic!("{found}")
    };
    assert_eq!(path, "weight");
    assert!(problem.starts_with("rank 2 runs another model"), "{found}");
}

#[test]
fn different_strategies_are_refused_at_shard() {
    let found = error(2, |world| {
        let strategy = if world.is_chief() {
            Strategy::ddp()
        } else {
            Strategy::fsdp()
        };
        strategy.shard(mlp(&world), &world).map(|_| ())
    });
    let message = found.to_string();
    assert!(
        message.contains("rank 1 has strategy fsdp, rank 0 has strategy ddp"),
        "{found}"
    );
}

#[test]
fn saving_a_sharded_model_with_burn_is_refused() {
    let found = run(2, |world| {
        let model = sharded(&world)?;
        Ok(world.run(|| model.into_record()).map(|_| ()))
    });
    for result in found.unwrap() {
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("world.save") && message.contains("world.full"),
            "{message}"
        );
    }
    let found = error(2, |world| {
        let file = std::env::temp_dir().join("burn-dist-test-of-a-refused-save");
        let _ = sharded(&world)?.save_file(file);
        Ok(())
    });
    assert!(matches!(found, Error::Model { .. }), "{found}");
}

#[test]
fn sharding_twice_is_refused() {
    let found = error(2, |world| {
        Strategy::fsdp().shard(sharded(&world)?, &world).map(|_| ())
    });
    assert!(matches!(found, Error::Model { .. }), "{found}");
}

/// One parameter in two fields.
#[derive(Module, Debug)]
struct Twice {
    one: Param<Tensor<2>>,
    two: Param<Tensor<2>>,
}

#[test]
fn one_parameter_in_two_fields_is_refused() {
    let found = error(2, |world| {
        let one = LinearConfig::new(4, 4).init(&world.device()).weight;
        let two = one.clone();
        Strategy::fsdp()
            .shard(Twice { one, two }, &world)
            .map(|_| ())
    });
    let Error::Model { path, .. } = found else {
        panic!("{found}");
    };
    assert_eq!(path, "one, two");
}

#[test]
fn burns_own_backward_is_refused() {
    for strategy in [Strategy::ddp(), Strategy::zero2(), Strategy::fsdp()] {
        let found = run(2, |world| {
            let model = strategy.clone().shard(mlp(&world), &world)?;
            let loss = loss(&world, &model);
            Ok(world.run(|| drop(loss.backward())))
        });
        for result in found.unwrap() {
            let message = result.unwrap_err().to_string();
            assert!(message.contains("world.backward"), "{strategy}: {message}");
        }
    }
}

#[test]
fn a_plain_model_has_no_sharded_gradients() {
    let found = error(1, |world| {
        let model = mlp(&world);
        world.backward(loss(&world, &model), &model).map(|_| ())
    });
    assert!(found.to_string().contains("Strategy::shard"), "{found}");
}

#[test]
fn strategies_that_do_not_fit_the_world_are_refused() {
    let shard = |strategy: Strategy, ranks| {
        error(ranks, |world| {
            strategy.clone().shard(mlp(&world), &world).map(|_| ())
        })
        .to_string()
    };
    let single = shard(Strategy::single(), 2);
    assert!(
        single.contains("2 ranks") && single.contains("ddp"),
        "{single}"
    );
    let hybrid = shard(Strategy::hybrid(3), 4);
    assert!(hybrid.contains("divides the 4 ranks"), "{hybrid}");
    assert!(shard(Strategy::hybrid(0), 2).contains("hybrid"));
}

#[test]
fn optimizers_that_are_not_element_wise_are_refused() {
    let clipping = Some(GradientClippingConfig::Norm(0.5));
    let wrong: [(&str, ModuleOptimizer); 4] = [
        (
            "adamw with clipping",
            AdamWConfig::new()
                .with_grad_clipping(clipping.clone())
                .init(),
        ),
        (
            "sgd with clipping",
            SgdConfig::new().with_gradient_clipping(clipping).init(),
        ),
        ("muon", MuonConfig::new().init()),
        ("lamb", LambConfig::new().init()),
    ];
    for (name, optimizer) in wrong {
        let found = error(2, |world| {
            let model = sharded(&world)?;
            world.optimizer(optimizer.clone(), &model).map(|_| ())
        });
        assert!(matches!(found, Error::Optimizer { .. }), "{name}: {found}");
        assert!(found.to_string().contains("clip_norm"), "{name}: {found}");
        // Whole parameters are another matter.
        let whole = run(2, |world| {
            let model = Strategy::ddp().shard(mlp(&world), &world)?;
            world.optimizer(optimizer.clone(), &model).map(|_| ())
        });
        assert!(whole.is_ok(), "{name}");
    }
}

#[test]
fn element_wise_optimizers_are_exact_on_shards() {
    let momentum = MomentumConfig::new().with_momentum(0.9).with_nesterov(true);
    let right: [ModuleOptimizer; 6] = [
        AdamWConfig::new().with_weight_decay(0.1).init(),
        AdamConfig::new().init(),
        SgdConfig::new().init(),
        SgdConfig::new().with_momentum(Some(momentum)).init(),
        LionConfig::new().init(),
        RmsPropConfig::new().init(),
    ];
    let model = oracle::cast(Mlp::new(2, &Device::flex().autodiff()), FloatDType::F64);
    for optimizer in right {
        same_everywhere(|place| {
            let mut model = place.shard(&model)?;
            let mut optimizer = place.optimizer(optimizer.clone(), &model)?;
            for step in 0..3 {
                let grads = place.backward(square(model.forward(place.batch(step))), &model)?;
                model = optimizer.step(1e-3, model, grads);
            }
            place.note(&model)
        });
    }
}

#[test]
fn a_loss_without_gradients_is_refused() {
    let run = |world: World| {
        let model = Strategy::fsdp().shard(Mlp::new(1, &world.device()), &world)?;
        let x = Tensor::<2>::ones([2, 7], &world.device());
        for loss in [
            model.valid().forward(x.clone().inner()).mean(),
            model.clone().freeze().forward(x).mean(),
        ] {
            let refused = world.backward(loss, &model).map(|_| ());
            let Err(Error::Model { path, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(path, "the loss");
        }
        Ok(())
    };
    Threads::new(2).run(run).unwrap();
}
