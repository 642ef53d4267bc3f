//! Steps of which a backward pass fails: on all ranks, and on one of them.

#![allow(clippy::unwrap_used)]

use crate::launch::Threads;
use crate::{Error, Result, Strategy, World};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Tensor;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Every world here is done long before a collective would give up.
const LIMIT: Duration = Duration::from_secs(30);

fn model(world: &World, strategy: &Strategy) -> Result<Linear> {
    let model = LinearConfig::new(3, 2).init(&world.device());
    strategy.clone().shard(model, world)
}

fn ones(world: &World) -> Tensor<2> {
    Tensor::ones([4, 3], &world.device())
}

/// The errors of `finish` by rank, after a first pass that succeeds and a second one that `second` runs.
fn errors_of_finish(
    strategy: &Strategy,
    ranks: usize,
    second: fn(&World, &Linear) -> Tensor<1>,
) -> Vec<String> {
    let found = Mutex::new(vec![String::new(); ranks]);
    let start = Instant::now();
    // What the world as a whole returns is not looked at.
    let _ = Threads::new(ranks).deadline(2 * LIMIT).run(|world| {
        let model = model(&world, strategy)?;
        let mut step = world.accumulate(&model)?;
        step.add(model.forward(ones(&world)).mean())?;
        let mut failed = false;
        world.run(|| failed = step.add(second(&world, &model)).is_err())?;
        if failed {
            // Refused for the pass before, whatever the loss is; a forward could gather with nobody.
            let again = step.add(ones(&world).mean()).unwrap_err();
            assert!(again.to_string().contains("pass 2 failed"), "{again}");
        }
        let error = step.finish().map(drop).unwrap_err();
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found[world.rank()] = error.to_string();
        Ok(())
    });
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    found.into_inner().unwrap()
}

#[test]
fn finish_names_the_pass_that_failed_and_why() {
    for strategy in [Strategy::ddp(), Strategy::zero2(), Strategy::fsdp()] {
        let found = errors_of_finish(&strategy, 2, |world, model| {
            model.forward(ones(world)).mean().detach()
        });
        for error in found {
            assert!(
                error.contains("pass 2 failed: the loss: depends on nothing"),
                "{error}"
            );
            assert!(error.contains("world.accumulate"), "{error}");
        }
    }
}

#[test]
fn finish_names_what_ranks_disagreed_about() {
    // ZeRO-2 keeps what the first pass has gathered, so that the ranks first disagree in the reduction.
    let found = errors_of_finish(&Strategy::zero2(), 3, |world, model| match world.rank() {
        1 => ones(world).matmul(model.weight.val()).mean(),
        _ => model.forward(ones(world)).mean(),
    });
    for error in found {
        assert!(error.contains("pass 2 failed: parameter bias"), "{error}");
    }
}

#[test]
fn a_pass_that_fails_on_one_rank_is_told_to_all() {
    for strategy in [Strategy::ddp(), Strategy::zero2(), Strategy::fsdp()] {
        let found = errors_of_finish(&strategy, 3, |world, model| {
            let loss = model.forward(ones(world)).mean();
            if world.rank() == 1 {
                loss.detach()
            } else {
                loss
            }
        });
        for error in found {
            assert!(error.contains("pass 2 failed"), "{strategy}: {error}");
        }
    }
}

#[test]
fn a_world_goes_on_after_a_pass_that_failed_on_all_ranks() {
    let run = |world: World| {
        let model = model(&world, &Strategy::fsdp())?;
        let mut step = world.accumulate(&model)?;
        let refused = step.add(ones(&world).mean()).unwrap_err();
        assert!(matches!(refused, Error::Model { .. }), "{refused}");
        let refused = step.finish().map(drop).unwrap_err();
        assert!(matches!(refused, Error::Config { .. }), "{refused}");
        let loss = model.forward(ones(&world)).mean();
        world.backward(loss, &model)?.norm()
    };
    let norms = Threads::new(2).run(run).unwrap();
    assert!(norms[0] > 0.0);
}
