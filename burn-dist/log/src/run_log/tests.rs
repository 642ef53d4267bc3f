//! Tests of a run's records.

use super::*;
use crate::unit_histograms::unit_histograms;
use crate::{Ended, Summary};
use burn::nn::LinearConfig;
use burn_dist::Strategy;
use burn_dist::launch::Threads;
use std::time::Duration;

fn run() -> Run {
    Run::new("mlp", "fsdp")
}

fn summary(folder: &Path) -> Summary {
    let text = std::fs::read_to_string(folder.join("summary.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Steps in which each phase sleeps as long as it is told, by rank and step.
fn sleep(steps: u64, ms: impl Fn(usize, u64) -> (u64, u64) + Sync) -> Vec<Straggler> {
    let found = Threads::new(3).run(|world| {
        let mut log = RunLog::unwritten(&world, run())?;
        for step in 0..steps {
            let (data, forward) = ms(world.rank(), step);
            log.time(Phase::Data, || {
                std::thread::sleep(Duration::from_millis(data))
            });
            log.time(Phase::Forward, || {
                std::thread::sleep(Duration::from_millis(forward))
            });
            log.step(Step::default())?;
        }
        Ok(log.finish(Ended::Finished, None)?.stragglers)
    });
    let found = found.unwrap();
    assert!(found.iter().all(|rank| rank == &found[0]));
    found.into_iter().next().unwrap()
}

#[test]
fn a_rank_slowed_by_30_percent_is_named_within_10_steps() {
    for (cause, slow) in [("compute", (10, 56)), ("data", (23, 43))] {
        let ms = |rank, step| {
            if (rank, step >= 10) == (1, true) {
                slow
            } else {
                (10, 40)
            }
        };
        let found = sleep(20, ms);
        assert_eq!(found.len(), 1, "{found:?}");
        let Straggler {
            rank,
            step,
            ratio,
            cause: named,
            ..
        } = &found[0];
        assert_eq!((*rank, named.as_str()), (1, cause));
        assert!((11..=20).contains(step) && *ratio > 1.2, "{found:?}");
    }
}

#[test]
fn one_slow_step_names_nobody() {
    let ms = |rank, step| {
        if (rank, step) == (2, 7) {
            (10, 400)
        } else {
            (10, 40)
        }
    };
    assert_eq!(sleep(14, ms), []);
}

#[test]
fn a_run_that_fails_says_so_and_keeps_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    let failed = Threads::new(2).run(|world| {
        let mut log = RunLog::create(&world, &folder, run())?;
        for _ in 0..3 {
            log.step(Step {
                loss_sum: f64::NAN,
                samples: 1,
                ..Step::default()
            })?;
        }
        match world.rank() {
            1 => Err(Error::user("out of coffee")),
            _ => log.step(Step::default()).map(drop),
        }
    });
    assert!(failed.unwrap_err().to_string().contains("out of coffee"));
    let steps = std::fs::read_to_string(folder.join("steps.jsonl")).unwrap();
    let steps: Vec<StepRecord> = steps
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!((steps.len(), steps[2].loss), (3, None));
    assert_eq!(summary(&folder).ended, "failed");
    let again = Threads::new(2).run(|world| RunLog::create(&world, &folder, run()).map(drop));
    assert!(again.unwrap_err().to_string().contains("never overwritten"));
}

#[test]
fn histograms_are_of_the_whole_model_under_every_strategy() {
    for strategy in [
        Strategy::ddp(),
        Strategy::zero2(),
        Strategy::fsdp(),
        Strategy::hybrid(2),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("run");
        Threads::new(4)
            .run(|world| {
                let model = LinearConfig::new(33, 7).init(&world.device());
                let model = strategy.clone().shard(model, &world)?;
                let mut log = RunLog::create(&world, &folder, run())?;
                let units = unit_histograms(&world, |each| world.visit_elements(&model, each))?;
                let (name, histogram) = &units[0];
                assert_eq!((units.len(), name.as_str()), (1, "root"));
                assert_eq!(histogram.count(), 33 * 7 + 7, "{strategy}");
                log.parameters(&model)?;
                log.finish(Ended::Stopped, None).map(drop)
            })
            .unwrap();
        assert_eq!(summary(&folder).ended, "stopped");
    }
}
