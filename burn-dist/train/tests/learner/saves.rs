//! Saves, what goes on from them, and what is refused.

use crate::program::{
    Batch, Captured, Net, Outcome, ToBatch, items, observed, optimizer, schedule,
};
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::optim::SgdConfig;
use burn_dist::launch::Threads;
use burn_dist::{GradScaler, Precision, Result, Strategy, World};
use burn_dist_train::{RankLoader, Sharded, sharded};
use burn_train::{Learner, SupervisedTraining};
use std::path::Path;
use std::sync::Arc;
use tempfile::tempdir;

type Data = fn(&World) -> Result<Arc<dyn DataLoader<Batch>>>;

fn burns_shuffled(_: &World) -> Result<Arc<dyn DataLoader<Batch>>> {
    let builder = DataLoaderBuilder::new(ToBatch).batch_size(4).shuffle(11);
    Ok(builder.build(InMemDataset::new(items(41))))
}

fn ours_shuffled(world: &World) -> Result<Arc<dyn DataLoader<Batch>>> {
    let loader = RankLoader::new(world, InMemDataset::new(items(41)), ToBatch, 4)?;
    Ok(Arc::new(loader.shuffled(11)))
}

/// A run of two ranks that is saved to `folder`, changed by `change`.
fn run(
    folder: &Path,
    strategy: &Strategy,
    data: Data,
    options: impl Fn(Sharded<Net>) -> Sharded<Net> + Sync,
    change: impl Fn(SupervisedTraining<Net>, &Captured) -> SupervisedTraining<Net> + Sync,
) -> Result<Outcome> {
    let outcomes = Threads::new(2).run(|world| {
        let directory = tempdir().unwrap();
        let (train, valid) = (data(&world)?, data(&world)?);
        let model = strategy.clone().shard(Net::new(&world.device()), &world)?;
        let optim = world.optimizer(optimizer(), &model)?;
        let sharded = options(sharded(&world).save(folder, &optim));
        let training = sharded.training(directory.path(), train, valid);
        let (training, captured) = observed(training, Some(&world));
        let training = change(training, &captured);
        let result = training.launch(Learner::new(model, optim, schedule()));
        Outcome::sharded(&world, &captured, &result)
    })?;
    Ok(outcomes.into_iter().next().flatten().unwrap())
}

fn assert_goes_on(strategy: &Strategy, data: Data, options: fn(Sharded<Net>) -> Sharded<Net>) {
    let (whole, cut) = (tempdir().unwrap(), tempdir().unwrap());
    let epochs =
        |n: usize| move |training: SupervisedTraining<Net>, _: &Captured| training.num_epochs(n);
    let expected = run(whole.path(), strategy, data, options, epochs(4)).unwrap();
    let first = run(cut.path(), strategy, data, options, epochs(2)).unwrap();
    let second = run(cut.path(), strategy, data, options, |training, _| {
        training.num_epochs(4).checkpoint(2)
    });
    let mut both = first;
    let second = second.unwrap();
    assert!(second.numbers.iter().all(|number| number.epoch > 2));
    both.numbers.extend(second.numbers);
    assert_eq!(both.numbers, expected.numbers, "metrics after going on");
    assert_eq!(
        second.parameters, expected.parameters,
        "parameters after going on"
    );
}

#[test]
fn a_run_that_goes_on_equals_one_that_was_never_interrupted() {
    for strategy in [Strategy::ddp(), Strategy::zero2(), Strategy::fsdp()] {
        assert_goes_on(&strategy, ours_shuffled, |sharded| sharded);
        assert_goes_on(&strategy, burns_shuffled, |sharded| sharded);
    }
}

/// The first steps of the scaler that a save does not hold would overflow and be skipped.
#[test]
fn the_loss_scale_goes_on_too() {
    let half = Strategy::fsdp().precision(Precision::f16());
    assert_goes_on(&half, ours_shuffled, |sharded| {
        sharded.loss_scaling(GradScaler::new().starting_at(1e8))
    });
}

/// Wherever in an epoch the stop comes.
#[test]
fn a_run_that_is_stopped_in_an_epoch_goes_on_there() {
    let (whole, cut) = (tempdir().unwrap(), tempdir().unwrap());
    let fsdp = Strategy::fsdp();
    let expected = run(
        whole.path(),
        &fsdp,
        burns_shuffled,
        |s| s,
        |t, _| t.num_epochs(3),
    )
    .unwrap();
    let (mut runs, mut seen) = (0, Vec::new());
    let last = loop {
        let stopping = |training: SupervisedTraining<Net>, captured: &Captured| {
            let interrupter = training.interrupter();
            // More than those of a validation, which begins anew after a stop.
            captured.at(15, move || interrupter.stop(Some("the test says so")));
            training.num_epochs(3)
        };
        let found = run(cut.path(), &fsdp, burns_shuffled, Sharded::resume, stopping).unwrap();
        runs += 1;
        seen.extend(found.numbers);
        if !found.is_interrupted {
            break found.parameters;
        }
        assert!(runs < 40, "no end");
    };
    assert!(runs > 3, "it was not stopped often: {runs} runs");
    assert_eq!(last, expected.parameters);
    // A validation that was stopped is repeated, so training is compared.
    let of_training = |numbers: &[_]| -> Vec<_> {
        let kept = numbers
            .iter()
            .filter(|n: &&crate::program::Number| n.split == "train" && !n.is_final);
        kept.cloned().collect()
    };
    assert_eq!(of_training(&seen), of_training(&expected.numbers));
}

#[test]
fn checkpointers_of_the_builder_are_refused() {
    let folder = tempdir().unwrap();
    let found = run(
        folder.path(),
        &Strategy::fsdp(),
        ours_shuffled,
        |s| s,
        |training, _| training.with_default_checkpointers(),
    );
    let message = found.unwrap_err().to_string();
    assert!(message.contains("save(folder, &optim)"), "{message}");
}

#[test]
fn the_save_of_another_run_is_not_overwritten() {
    let folder = tempdir().unwrap();
    let once = || {
        run(
            folder.path(),
            &Strategy::fsdp(),
            ours_shuffled,
            |s| s,
            |t, _| t,
        )
    };
    once().unwrap();
    let message = once().unwrap_err().to_string();
    assert!(message.contains("checkpoint(epoch)"), "{message}");
    let other = run(
        folder.path(),
        &Strategy::fsdp(),
        ours_shuffled,
        |s| s,
        |t, _| t.checkpoint(3),
    );
    let message = other.unwrap_err().to_string();
    assert!(message.contains("that of epoch 1"), "{message}");
}

#[test]
fn a_checkpoint_without_a_folder_is_refused() {
    let found = Threads::new(2).run(|world| {
        let directory = tempdir().unwrap();
        let data = ours_shuffled(&world)?;
        let model = Strategy::fsdp().shard(Net::new(&world.device()), &world)?;
        let training = sharded(&world).training(directory.path(), data.clone(), data);
        let (training, _) = observed(training.checkpoint(2), Some(&world));
        training.launch(Learner::new(model, optimizer(), schedule()));
        Ok(())
    });
    let message = found.unwrap_err().to_string();
    assert!(message.contains("no `save`"), "{message}");
}

#[test]
fn another_optimizer_than_the_learners_is_refused() {
    let folder = tempdir().unwrap();
    let found = Threads::new(2).run(|world| {
        let directory = tempdir().unwrap();
        let data = ours_shuffled(&world)?;
        let model = Strategy::fsdp().shard(Net::new(&world.device()), &world)?;
        let other = world.optimizer(SgdConfig::new().init(), &model)?;
        let training = sharded(&world).save(folder.path(), &other);
        let training = training.training(directory.path(), data.clone(), data);
        let (training, _) = observed(training, Some(&world));
        training.launch(Learner::new(model, optimizer(), schedule()));
        Ok(())
    });
    let message = found.unwrap_err().to_string();
    assert!(message.contains("the one of the Learner"), "{message}");
}
