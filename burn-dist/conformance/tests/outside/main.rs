//! The engine of another crate passes the conformance suite and trains.

mod engine;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamWConfig;
use burn::tensor::{Device, Distribution, Tensor};
use burn_dist::comm::{Communicator, Engine, Recorder};
use burn_dist::launch::Threads;
use burn_dist::{Destination, Error, Result, Strategy, World};
use burn_dist_conformance::Body;
use engine::Channels;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs `body` on a thread per rank, and tells the other ranks how each one ended.
fn run<T: Send>(
    ranks: usize,
    deadline: Duration,
    body: impl Fn(Arc<dyn Engine>) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    let rank = |engine: Channels| {
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let result = catch_unwind(AssertUnwindSafe(|| body(engine.clone())));
        match &result {
            Ok(Ok(_)) => engine.leave(),
            Ok(Err(error)) => engine.abort(error.clone()),
            Err(_) => engine.abort(Error::user(format!("rank {} panicked", engine.rank()))),
        }
        result.unwrap_or_else(|payload| resume_unwind(payload))
    };
    std::thread::scope(|scope| {
        let engines = Channels::world(ranks, deadline).into_iter();
        let threads: Vec<_> = engines.map(|engine| scope.spawn(|| rank(engine))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

mod channels {
    burn_dist_conformance::suite!(|ranks: usize, body: crate::Body<'_>| {
        crate::run(ranks, crate::FAR, |engine| {
            body(&crate::communicator(engine))
        })
    });
}

/// A deadline that no test reaches.
const FAR: Duration = Duration::from_secs(60);

fn communicator(engine: Arc<dyn Engine>) -> Communicator {
    Communicator::of(engine, Recorder::default())
}

#[test]
fn a_rank_that_does_not_come_is_named_at_the_deadline() {
    let deadline = Duration::from_millis(300);
    let since = Instant::now();
    let results = run(3, deadline, |engine| {
        if engine.rank() == 1 {
            std::thread::sleep(2 * deadline);
        }
        communicator(engine).barrier(&"late".into())
    });
    assert!(since.elapsed() < FAR / 4);
    for result in results {
        let named = matches!(&result, Err(Error::Timeout { missing, .. }) if *missing == [1]);
        assert!(named, "{result:?}");
    }
}

/// One FSDP step; returns the loss and the stepped weights, as bits.
fn step(world: &World) -> Result<Vec<u32>> {
    let bits = |t: Tensor<1>| -> Vec<u32> {
        let data = t.into_data().try_to_vec::<f32>().unwrap();
        data.into_iter().map(f32::to_bits).collect()
    };
    let device = world.device();
    let weight = Tensor::<1>::from_floats([0.3, -0.7, 0.2, 0.9, -0.1, 0.4], &device);
    let linear: Linear = LinearConfig::new(3, 2).init(&device);
    let linear = Linear {
        weight: Param::from_tensor(weight.reshape([3, 2])),
        ..linear
    };
    let mut model = Strategy::fsdp().shard(linear, world)?;
    let mut optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
    let x = world
        .noise(0)
        .random([4, 3], Distribution::Default, &device, 0);
    let loss = (model.forward(x) - 1.0).powi_scalar(2).mean();
    let mut result = bits(loss.clone().reshape([1]));
    let gradients = world.backward(loss, &model)?.clip_norm(1.0)?.grads;
    model = optimizer.step(0.1, model, gradients);
    let full = world.full(&model, Destination::All)?.unwrap().no_grad();
    result.extend(bits(full.weight.val().reshape([6])));
    Ok(result)
}

#[test]
fn an_fsdp_step_gives_the_bits_of_threads() {
    let seed = 7;
    let expected = Threads::new(2)
        .seed(seed)
        .run(|world| step(&world))
        .unwrap();
    let results = run(2, FAR, |engine| {
        step(&World::new(communicator(engine), Device::flex(), seed)?)
    });
    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(results, expected);
}
