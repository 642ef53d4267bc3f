//! Models of several parts: each sharded by a call of its own, replicated, ignored, or in no sharding.

use crate::oracle;
use crate::oracle::{Mlp, ranks, values};
use burn::module::{Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::{Destination, Error, Result, ShardedGradients, Strategy, World, unit};

const ROWS: usize = 24;
const STEPS: usize = 3;

/// A backbone with units and a head, each of which may be sharded in its own way.
#[derive(Module, Debug)]
struct Net {
    body: Mlp,
    head: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            body: Mlp::new(3, device),
            head: LinearConfig::new(3, 5).init(device),
        }
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        let x = self.body.forward(x);
        let x = unit(&self.head, x, |head: &Linear, x| head.forward(x));
        x.powi_scalar(2).mean()
    }

    fn sharded(self, world: &World, body: &Strategy, head: &Strategy) -> Result<Self> {
        Ok(Self {
            body: body.clone().shard(self.body, world)?,
            head: head.clone().shard(self.head, world)?,
        })
    }
}

/// The model of all tests, in f64.
fn net() -> Net {
    let device = Device::flex().autodiff();
    oracle::cast(oracle::undrawn(Net::new(&device)), FloatDType::F64)
}

/// The same in f32, whose optimizer states can be saved.
fn single() -> Net {
    oracle::undrawn(Net::new(&Device::flex().autodiff()))
}

fn batch(step: usize, rank: usize, size: usize, device: &Device) -> Tensor<2> {
    let rows = oracle::rows(&oracle::batch(ROWS, 7, step), rank, size);
    oracle::tensor(&rows, DType::F64, device)
}

fn adamw() -> AdamWConfig {
    AdamWConfig::new().with_weight_decay(0.01)
}

/// Two micro-batches of half a rank's rows each, or the whole at once.
fn gradients(world: &World, net: &Net, step: usize, halves: bool) -> Result<ShardedGradients> {
    let x = batch(step, world.rank(), world.size(), &world.device());
    if !halves {
        return world.backward(net.loss(x), net);
    }
    let mut sums = world.accumulate(net)?;
    for half in x.chunk(2, 0) {
        sums.add(net.loss(half))?;
    }
    sums.finish()
}

#[test]
fn parts_with_strategies_of_their_own_train_as_one_device() {
    let device = Device::flex().autodiff();
    let expected = oracle::plain(net(), adamw().init(), STEPS, 1e-2, |net, step| {
        net.loss(batch(step, 0, 1, &device))
    });
    let norm = |gradients: &oracle::Values| {
        let squares = gradients.values().flatten().map(|x| x * x);
        squares.sum::<f64>().sqrt()
    };
    for size in 1..=4 {
        let strategies = oracle::strategies(size);
        for (at, body) in strategies.iter().enumerate() {
            for head in [&Strategy::ddp(), &strategies[(at + 1) % strategies.len()]] {
                for halves in [false, true] {
                    let what = format!("body {body}, head {head}, {size} ranks, halves {halves}");
                    let run = |world: World| {
                        let net = net().sharded(&world, body, head)?;
                        let norms = gradients(&world, &net, 0, halves)?.norm()?;
                        let trace = oracle::sharded(
                            &world,
                            net,
                            adamw().init(),
                            STEPS,
                            1e-2,
                            |n, step| Ok((0.0, gradients(&world, n, step, halves)?)),
                        )?;
                        Ok((norms, trace))
                    };
                    let found = ranks(size).run(run);
                    for (found, trace) in found.unwrap_or_else(|e| panic!("{what}: {e}")) {
                        let wanted = norm(&expected.gradients[0]);
                        assert!((found - wanted).abs() <= 1e-9 * wanted, "{what}: {found}");
                        for (found, wanted) in trace.gradients.iter().zip(&expected.gradients) {
                            oracle::close(&what, found, wanted, 1e-9);
                        }
                        oracle::close(&what, &trace.parameters, &expected.parameters, 1e-9);
                    }
                }
            }
        }
    }
}

#[test]
fn a_save_of_several_parts_resumes() {
    for size in 1..=3 {
        let strategies = oracle::strategies(size);
        for (at, body) in strategies.iter().enumerate() {
            let head = &strategies[(at + 1) % strategies.len()];
            let folder = tempfile::tempdir().unwrap();
            let step = |world: &World, net: Net, optimizer: &mut ModuleOptimizer, step| {
                let x = batch(step, world.rank(), size, &world.device());
                let loss = net.loss(x.cast(FloatDType::F32));
                let grads = world.backward(loss, &net)?.into_params();
                Ok::<_, Error>(optimizer.step(1e-2, net, grads))
            };
            let run = |world: World| {
                let mut net = single().sharded(&world, body, head)?;
                let mut optimizer = world.optimizer(adamw().init(), &net)?;
                net = step(&world, net, &mut optimizer, 0)?;
                world.save(folder.path(), &net, &optimizer, &7)?;
                net = step(&world, net, &mut optimizer, 1)?;
                Ok(values(&world.full(&net, Destination::All)?.unwrap()))
            };
            let expected = ranks(size).run(run).unwrap();
            let resume = |world: World| {
                let net = Net::new(&world.device()).sharded(&world, body, head)?;
                let optimizer = world.optimizer(adamw().init(), &net)?;
                let (net, mut optimizer, seven): (_, _, u8) =
                    world.load(folder.path(), net, optimizer)?;
                assert_eq!(seven, 7);
                let net = step(&world, net, &mut optimizer, 1)?;
                Ok(values(&world.full(&net, Destination::All)?.unwrap()))
            };
            let found = ranks(size).run(resume);
            let what = format!("body {body}, head {head}, {size} ranks");
            assert_eq!(
                found.unwrap_or_else(|e| panic!("{what}: {e}")),
                expected,
                "{what}"
            );
        }
    }
    // A part may be sharded over other ranks.
    let folder = tempfile::tempdir().unwrap();
    let run = |world: World| {
        let saved = single().sharded(&world, &Strategy::fsdp(), &Strategy::ddp())?;
        let optimizer = world.optimizer(adamw().init(), &saved)?;
        world.save(folder.path(), &saved, &optimizer, &())?;
        let other = Net::new(&world.device());
        let other = other.sharded(&world, &Strategy::zero2(), &Strategy::fsdp())?;
        let optimizer = world.optimizer(adamw().init(), &other)?;
        let (loaded, ..) = world.load::<_, ()>(folder.path(), other, optimizer)?;
        let full = |net: &Net| Ok::<_, Error>(values(&world.full(net, Destination::All)?.unwrap()));
        Ok::<_, Error>((full(&saved)?, full(&loaded)?))
    };
    let (saved, loaded) = ranks(2).run(run).unwrap().remove(0);
    assert_eq!(saved, loaded);
}

#[test]
fn a_trainable_part_that_no_sharding_holds_is_named() {
    for strategy in oracle::strategies(2) {
        let run = |world: World| {
            let mut net = net();
            net.body = strategy.clone().shard(net.body, &world)?;
            let optimizer = world.optimizer(adamw().init(), &net).map(drop);
            let x = batch(0, world.rank(), 2, &world.device());
            let backward = world.backward(net.loss(x.clone()), &net).map(drop);
            let accumulate = world.accumulate(&net).map(drop);
            // A frozen part has nothing to miss.
            net.head = net.head.no_grad();
            world.backward(net.loss(x), &net)?;
            Ok([optimizer, backward, accumulate])
        };
        for found in ranks(2).run(run).unwrap().into_iter().flatten() {
            let Err(Error::Model { path, .. }) = found else {
                panic!("{strategy}: {found:?}");
            };
            assert_eq!(path, "head.weight, head.bias", "{strategy}");
        }
    }
}

#[test]
fn replicated_parameters_are_stored_whole_and_reduced() {
    let device = Device::flex().autodiff();
    let expected = oracle::plain(net(), adamw().init(), STEPS, 1e-2, |net, step| {
        net.loss(batch(step, 0, 1, &device))
    });
    for size in 2..=3 {
        for strategy in oracle::strategies(size) {
            let what = format!("{strategy}, {size} ranks");
            let run = |world: World| {
                let strategy = strategy.clone().replicate(["head", "body.blocks.*.weight"]);
                let net = strategy.shard(net(), &world)?;
                assert_eq!(net.head.weight.base().dims(), [3, 5]);
                assert_eq!(net.body.blocks[1].weight.base().dims(), [15, 15]);
                oracle::sharded(&world, net, adamw().init(), STEPS, 1e-2, |n, step| {
                    Ok((0.0, gradients(&world, n, step, false)?))
                })
            };
            for trace in ranks(size).run(run).unwrap() {
                for (found, wanted) in trace.gradients.iter().zip(&expected.gradients) {
                    oracle::close(&what, found, wanted, 1e-9);
                }
                oracle::close(&what, &trace.parameters, &expected.parameters, 1e-9);
            }
        }
    }
}

#[test]
fn ignored_parameters_are_not_changed() {
    // One device that trains the body only.
    let device = Device::flex().autodiff();
    let mut frozen = net();
    frozen.head = frozen.head.no_grad();
    let expected = oracle::plain(frozen, adamw().init(), STEPS, 1e-2, |net, step| {
        net.loss(batch(step, 0, 1, &device))
    });
    for size in 1..=3 {
        for strategy in oracle::strategies(size) {
            let what = format!("{strategy}, {size} ranks");
            let run = |world: World| {
                let mut net = strategy.clone().ignore(["head"]).shard(net(), &world)?;
                let mut optimizer = world.optimizer(adamw().init(), &net)?;
                for step in 0..STEPS {
                    let grads: GradientsParams =
                        gradients(&world, &net, step, false)?.into_params();
                    assert!(grads.get::<2>(net.head.weight.id).is_none());
                    net = optimizer.step(1e-2, net, grads);
                }
                let full = world.full(&net, Destination::All)?;
                Ok(values(&full.unwrap()))
            };
            for found in ranks(size).run(run).unwrap() {
                oracle::close(&what, &found, &expected.parameters, 1e-9);
            }
        }
    }
    // It is each rank's own.
    let own = ranks(2).run(|world| {
        let mut net = net();
        let value = Tensor::full([3, 5], world.rank() as f64, (&world.device(), DType::F64));
        let id = net.head.weight.id;
        net.head.weight = Param::initialized(id, value.require_grad());
        let net = Strategy::fsdp().ignore(["head.*"]).shard(net, &world)?;
        Ok(net.head.weight.val().into_data().iter::<f64>().sum::<f64>())
    });
    assert_eq!(own.unwrap(), [0.0, 15.0]);
}

#[test]
fn patterns_that_match_nothing_are_refused() {
    let plan = |strategy: Strategy| strategy.plan(&net(), 2).unwrap_err().to_string();
    assert!(plan(Strategy::fsdp().ignore(["hed"])).contains("hed"));
    assert!(plan(Strategy::fsdp().replicate(["body.block.*"])).contains("body.block.*"));
}

/// A teacher beside a student, with running state in both.
#[derive(Module, Debug)]
struct Pair {
    student: BatchNorm,
    teacher: BatchNorm,
    scale: Linear,
}

#[test]
fn running_state_is_averaged_where_it_was_sharded_and_nowhere_else() {
    let run = |world: World| {
        let device = world.device();
        let norm = || BatchNormConfig::new(4).init(&device);
        let mut pair = Pair {
            student: Strategy::fsdp().shard(norm(), &world)?,
            teacher: norm().no_grad(),
            scale: Strategy::ddp().shard(LinearConfig::new(4, 4).init(&device), &world)?,
        };
        let mean = Tensor::full([4], 0.1 + world.rank() as f64, &device.clone().inner());
        pair.teacher.running_mean = burn::module::RunningState::new(mean.clone());
        let x = Tensor::<2>::full([8, 4], world.rank() as f64, &device);
        let y = pair.scale.forward(pair.student.forward(x));
        world.backward(y.powi_scalar(2).mean(), &pair)?;
        let read = |norm: &BatchNorm| norm.running_mean.value_sync().into_data();
        assert_eq!(read(&pair.teacher), mean.into_data());
        Ok(read(&pair.student).iter::<f64>().next().unwrap())
    };
    let found = ranks(3).run(run).unwrap();
    assert!(found.iter().all(|mean| *mean == found[0] && *mean > 0.0));
}
