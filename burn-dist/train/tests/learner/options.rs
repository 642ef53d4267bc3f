//! The strategy's options and the model's, and what Burn's builder decides.

use crate::program::{
    Captured, Net, Outcome, ToBatch, items, loader, observed, optimizer, schedule,
};
use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::InMemDataset;
use burn_dist::launch::Threads;
use burn_dist::{GradScaler, Precision, Result, Shadow, Strategy};
use burn_dist_train::{Sharded, sharded};
use burn_train::metric::LossMetric;
use burn_train::metric::store::{Aggregate, Direction, Split};
use burn_train::{
    Learner, MetricEarlyStoppingStrategy, StoppingCondition, SupervisedTraining, TrainingStrategy,
};
use tempfile::tempdir;

struct Case {
    ranks: usize,
    samples: usize,
    strategy: Strategy,
    options: fn(Sharded<Net>) -> Sharded<Net>,
    change: fn(SupervisedTraining<Net>) -> SupervisedTraining<Net>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            ranks: 2,
            samples: 41,
            strategy: Strategy::fsdp(),
            options: |sharded| sharded,
            change: |training| training.num_epochs(3),
        }
    }
}

impl Case {
    fn run(&self) -> Result<Outcome> {
        let outcomes = Threads::new(self.ranks).run(|world| {
            let directory = tempdir().unwrap();
            let data = || loader(items(self.samples), 4);
            let model = self
                .strategy
                .clone()
                .shard(Net::new(&world.device()), &world)?;
            let optim = world.optimizer(optimizer(), &model)?;
            let sharded = (self.options)(sharded(&world));
            let training = sharded.training(directory.path(), data(), data());
            let (training, captured): (_, Captured) =
                observed((self.change)(training), Some(&world));
            let result = training.launch(Learner::new(model, optim, schedule()));
            Outcome::sharded(&world, &captured, &result)
        })?;
        Ok(outcomes.into_iter().next().flatten().unwrap())
    }
}

fn losses(outcome: &Outcome, split: &str) -> Vec<f64> {
    let finals = outcome.numbers.iter();
    let finals = finals.filter(|n| n.is_final && n.metric == "Loss" && n.split == split);
    finals.map(|number| number.value).collect()
}

#[test]
fn recomputation_changes_nothing() {
    let strategy = Strategy::fsdp().recompute(true);
    let found = Case {
        strategy,
        ..Case::default()
    }
    .run()
    .unwrap();
    let expected = Case::default().run().unwrap();
    assert_eq!(found.numbers, expected.numbers);
    assert_eq!(found.parameters, expected.parameters);
}

#[test]
fn half_precision_trains_with_a_scaled_loss() {
    let whole = losses(&Case::default().run().unwrap(), "train");
    let case = Case {
        strategy: Strategy::fsdp().precision(Precision::f16()),
        // So large that the steps of the first epoch overflow and are skipped.
        options: |sharded| {
            let scaler = GradScaler::new().starting_at(1e8);
            sharded.loss_scaling(scaler).clip(1.0)
        },
        change: |training| training.num_epochs(6),
        ..Case::default()
    };
    let scaled = losses(&case.run().unwrap(), "train");
    assert!(scaled[0] > whole[0] + 0.1, "{scaled:?}, in f32 {whole:?}");
    assert!(scaled[5] < 0.5 * scaled[0], "{scaled:?}");
    let strategy = Strategy::fsdp().precision(Precision::bf16());
    let bf16 = losses(
        &Case {
            strategy,
            ..Case::default()
        }
        .run()
        .unwrap(),
        "train",
    );
    assert!(
        (bf16[2] - whole[2]).abs() < 0.1,
        "{bf16:?}, in f32 {whole:?}"
    );
}

#[test]
fn the_first_steps_are_compared_with_one_plain_device() {
    let with = |tolerance: fn(Sharded<Net>) -> Sharded<Net>| Case {
        options: tolerance,
        ..Case::default()
    };
    let compared = with(|sharded| sharded.shadow(Shadow::within(1e-5), 3))
        .run()
        .unwrap();
    assert_eq!(
        compared.parameters,
        Case::default().run().unwrap().parameters
    );
    // Nothing agrees with a tolerance below zero, so there is a comparison.
    let error = with(|sharded| sharded.shadow(Shadow::within(-1.0), 1))
        .run()
        .unwrap_err();
    assert!(
        error.to_string().contains("deviates from one plain device"),
        "{error}"
    );
}

/// A loss cannot rise for ever, so this stops early, on all ranks or the run fails.
#[test]
fn rank_0_decides_to_stop_early() {
    let case = Case {
        change: |training| {
            let strategy = MetricEarlyStoppingStrategy::new(
                &LossMetric::new(),
                Aggregate::Mean,
                Direction::Highest,
                Split::Valid,
                StoppingCondition::NoImprovementSince { n_epochs: 2 },
            );
            training.num_epochs(9).early_stopping(strategy)
        },
        ..Case::default()
    };
    assert_eq!(losses(&case.run().unwrap(), "valid").len(), 3);
}

#[test]
fn a_rank_without_any_sample_takes_part() {
    let few = |ranks| {
        Case {
            ranks,
            samples: 2,
            ..Case::default()
        }
        .run()
        .unwrap()
    };
    let (three, one) = (few(3), few(1));
    // One step an epoch of two samples, on ranks 1 and 2 or on one.
    three.assert_close(&one, "two samples on three ranks");
}

#[test]
fn a_clip_that_is_no_norm_is_an_error_on_all_ranks() {
    let case = Case {
        options: |sharded| sharded.clip(-1.0),
        ..Case::default()
    };
    let message = case.run().unwrap_err().to_string();
    assert!(message.contains("clip norm"), "{message}");
}

#[test]
fn options_that_differ_between_ranks_are_an_error() {
    let found = Threads::new(2).run(|world| {
        let directory = tempdir().unwrap();
        let data = || loader(items(8), 4);
        let model = Strategy::fsdp().shard(Net::new(&world.device()), &world)?;
        let training = sharded(&world).clip(1.0 + world.rank() as f64);
        let training = training.training(directory.path(), data(), data());
        let (training, _) = observed(training, Some(&world));
        training.launch(Learner::new(model, optimizer(), schedule()));
        Ok(())
    });
    let message = found.unwrap_err().to_string();
    assert!(message.contains("clip is 2.0 on rank 1"), "{message}");
}

/// Burn's own builder, with the strategy by `into`.
#[test]
fn burns_builder_takes_the_strategy() {
    let outcomes = Threads::new(2).run(|world| {
        let directory = tempdir().unwrap();
        let data = || loader(items(41), 4);
        let model = Strategy::fsdp().shard(Net::new(&world.device()), &world)?;
        let optim = world.optimizer(optimizer(), &model)?;
        let strategy: TrainingStrategy<Net> = sharded(&world).into();
        let training = SupervisedTraining::new(directory.path(), data(), data());
        let training = training.with_training_strategy(strategy);
        let training = training.renderer(Box::new(burn_dist_train::Silent));
        let (training, captured) = observed(training.num_epochs(3), Some(&world));
        let result = training.launch(Learner::new(model, optim, schedule()));
        Outcome::sharded(&world, &captured, &result)
    });
    let found = outcomes.unwrap().into_iter().next().flatten().unwrap();
    let expected = Case::default().run().unwrap();
    assert_eq!(found.numbers, expected.numbers);
}

/// Its batches come in an order that workers decide, and all of them come.
#[test]
fn a_loader_with_workers_is_read_whole() {
    let outcomes = Threads::new(3).run(|world| {
        let directory = tempdir().unwrap();
        let data = || {
            let builder = DataLoaderBuilder::new(ToBatch).batch_size(4).num_workers(2);
            builder.build(InMemDataset::new(items(41)))
        };
        let model = Strategy::fsdp().shard(Net::new(&world.device()), &world)?;
        let optim = world.optimizer(optimizer(), &model)?;
        let training = sharded(&world).training(directory.path(), data(), data());
        let (training, captured) = observed(training.num_epochs(2), Some(&world));
        let result = training.launch(Learner::new(model, optim, schedule()));
        Outcome::sharded(&world, &captured, &result)
    });
    let found = outcomes.unwrap().into_iter().next().flatten().unwrap();
    for (split, epoch) in [("train", 1), ("train", 2), ("valid", 1), ("valid", 2)] {
        let numbers = found
            .numbers
            .iter()
            .filter(|n| n.metric == "Accuracy" && !n.is_final);
        let of_epoch = numbers.filter(|n| n.split == split && n.epoch == epoch);
        assert_eq!(
            of_epoch.map(|n| n.count).sum::<usize>(),
            41,
            "{split} {epoch}"
        );
    }
}

/// DDP reduces once a step, so four passes a step send little more than a quarter.
#[test]
fn accumulated_passes_are_reduced_once() {
    let sent = |change: fn(SupervisedTraining<Net>) -> SupervisedTraining<Net>| {
        let sent = Threads::new(2).run(|world| {
            let directory = tempdir().unwrap();
            let data = || loader(items(64), 4);
            let model = Strategy::ddp().shard(Net::new(&world.device()), &world)?;
            let optim = world.optimizer(optimizer(), &model)?;
            let training = sharded(&world).training(directory.path(), data(), data());
            let (training, _) = observed(change(training), Some(&world));
            world.ledger().reset();
            training.launch(Learner::new(model, optim, schedule()));
            let units = world.ledger().entries();
            let blocks = units
                .iter()
                .filter(|(_, unit, _)| unit.starts_with("blocks"));
            Ok(blocks.map(|(.., entry)| entry.calls).sum::<u64>())
        });
        sent.unwrap()[0]
    };
    let (each, fourth) = (sent(|training| training), sent(|t| t.grads_accumulation(4)));
    assert_eq!(
        (each, fourth),
        (2 * 8, 2 * 2),
        "two units, eight batches a rank"
    );
}
