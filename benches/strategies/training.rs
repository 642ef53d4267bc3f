//! A training that makes as many steps as it is asked for, and records them.

use crate::case::Case;
use crate::subject::{BATCH, Subject};
use burn::optim::ModuleOptimizer;
use burn_dist::launch::Threads;
use burn_dist::optim::AdamWConfig;
use burn_dist::telemetry::Phase;
use burn_dist::{Error, Result, World};
use burn_dist_log::{Ended, Run, RunLog, Step, Summary};
use burn_dist_models::Vit;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// Runs `f` on every rank of a new world, each with a single thread to compute on.
pub fn on_ranks<T: Send>(ranks: usize, f: impl Fn(&World) -> Result<T> + Sync) -> Vec<T> {
    let single = |world: World| {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        one.unwrap().install(|| f(&world))
    };
    Threads::new(ranks).run(single).unwrap()
}

/// Runs as many steps as rank 0 is asked for, repeatedly, until there is no further request; returns the records of all of them.
pub fn serve(
    world: &World,
    case: &Case,
    asked: &Mutex<mpsc::Receiver<u64>>,
    answer: &mpsc::Sender<Duration>,
) -> Result<Summary> {
    let mut log = RunLog::unwritten(world, Run::new("vit-cifar", &case.strategy()))?;
    let model = case
        .strategy
        .clone()
        .shard(Vit::new(&world.device()), world)?;
    let mut optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
    let batch = Vit::batch(world.rank(), &world.device());
    let mut model = Some(model);
    loop {
        let asked = || Ok(asked.lock().unwrap().recv().unwrap_or(0));
        let steps = world.from_chief(asked)?;
        if steps == 0 {
            return log.finish(Ended::Finished, None);
        }
        world.comm().barrier(&"bench".into())?;
        let start = Instant::now();
        for _ in 0..steps {
            model = Some(step(
                world,
                case,
                &mut log,
                (model, &mut optimizer),
                &batch,
            )?);
        }
        world.comm().barrier(&"bench".into())?;
        if world.is_chief() {
            answer.send(start.elapsed()).unwrap();
        }
    }
}

fn step(
    world: &World,
    case: &Case,
    log: &mut RunLog,
    (model, optimizer): (Option<Vit>, &mut ModuleOptimizer),
    batch: &<Vit as Subject>::Batch,
) -> Result<Vit> {
    let model = model.unwrap();
    let mut gradients = world.accumulate(&model)?.micro_batches(case.accumulate);
    for _ in 0..case.accumulate {
        let loss = log.time(Phase::Forward, || model.loss(batch.clone()));
        log.time(Phase::Backward, || gradients.add(loss))?;
    }
    let gradients = log.time(Phase::Backward, || gradients.finish())?;
    let (model, norm) = log.time(Phase::Optimizer, || {
        let clipped = gradients.clip_norm(1.0)?;
        Ok::<_, Error>((optimizer.step(1e-3, model, clipped.grads), clipped.norm))
    })?;
    log.step(Step {
        samples: case.accumulate * BATCH,
        rate: 1e-3,
        norm: Some(norm),
        ..Step::default()
    })?;
    Ok(model)
}
