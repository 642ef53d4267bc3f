//! Losses, metrics and parameters are those of `ExecutionStrategy::single`.

use crate::program::{
    Captured, Item, Net, Outcome, ToBatch, interleaved, items, loader, observed, optimizer,
    schedule,
};
use burn::data::dataset::InMemDataset;
use burn::tensor::Device;
use burn_dist::launch::Threads;
use burn_dist::{Result, Strategy};
use burn_dist_train::{RankLoader, Sharded, sharded};
use burn_train::{ExecutionStrategy, Learner, SupervisedTraining};
use std::sync::Arc;

const EPOCHS: usize = 3;

/// Samples that no number of ranks here divides, in batches of 4 a rank.
const TRAIN: usize = 41;
const VALID: usize = 23;
const BATCH: usize = 4;

type Change = fn(SupervisedTraining<Net>) -> SupervisedTraining<Net>;

/// Burn's strategy for one device, on batches of `batch`.
fn single(
    train: Vec<Item>,
    valid: Vec<Item>,
    batch: usize,
    clip: Option<f64>,
    change: Change,
) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let (train, valid) = (loader(train, batch), loader(valid, batch));
    let training = SupervisedTraining::new(directory.path(), train, valid);
    let device = Device::flex();
    let strategy = ExecutionStrategy::single(device.clone());
    let training = training.with_training_strategy(strategy.into());
    let (training, captured) = observed(change(training.num_epochs(EPOCHS)), None);
    let mut model = Net::new(&device.autodiff());
    model.clip = clip;
    let result = training.launch(Learner::new(model, optimizer(), schedule()));
    Outcome::plain(&captured, &result)
}

/// The same over ranks, with slices of Burn's loader.
fn sliced(
    ranks: usize,
    strategy: &Strategy,
    options: fn(Sharded<Net>) -> Sharded<Net>,
    change: Change,
) -> Outcome {
    let outcomes = Threads::new(ranks).run(|world| {
        let directory = tempfile::tempdir().unwrap();
        let (train, valid) = (loader(items(TRAIN), BATCH), loader(items(VALID), BATCH));
        let model = strategy.clone().shard(Net::new(&world.device()), &world)?;
        let optim = world.optimizer(optimizer(), &model)?;
        let training = options(sharded(&world)).training(directory.path(), train, valid);
        let (training, captured): (_, Captured) =
            observed(change(training.num_epochs(EPOCHS)), Some(&world));
        let result = training.launch(Learner::new(model, optim, schedule()));
        Outcome::sharded(&world, &captured, &result)
    });
    outcomes.unwrap().into_iter().next().flatten().unwrap()
}

fn strategies() -> [(&'static str, Strategy); 3] {
    [
        ("ddp", Strategy::ddp()),
        ("zero2", Strategy::zero2()),
        ("fsdp", Strategy::fsdp()),
    ]
}

fn compare(clip: Option<f64>, options: fn(Sharded<Net>) -> Sharded<Net>, change: Change) {
    for ranks in 1..=3 {
        let order = |count| interleaved(&items(count), ranks, BATCH);
        let (train, valid) = (order(TRAIN), order(VALID));
        let expected = single(train, valid, BATCH * ranks, clip, change);
        for (name, strategy) in strategies() {
            let found = sliced(ranks, &strategy, options, change);
            found.assert_close(&expected, &format!("{name} on {ranks} ranks"));
        }
    }
}

#[test]
fn slices_of_burns_loader_give_what_one_device_gives() {
    compare(None, |sharded| sharded, |training| training);
}

#[test]
fn accumulated_gradients_are_burns_sums() {
    compare(
        None,
        |sharded| sharded,
        |training| training.grads_accumulation(2),
    );
}

#[test]
fn gradients_are_clipped_by_the_norm_of_the_model() {
    let clipped = single(items(TRAIN), items(VALID), BATCH, Some(0.2), |training| {
        training
    });
    let free = single(items(TRAIN), items(VALID), BATCH, None, |training| training);
    assert_ne!(clipped.parameters, free.parameters, "the clip does nothing");
    compare(Some(0.2), |sharded| sharded.clip(0.2), |training| training);
}

/// The batches of one device, whatever the number of ranks, also where the last have fewer samples than ranks.
#[test]
fn a_rank_loader_gives_the_batches_of_one_device() -> Result<()> {
    let expected = single(items(TRAIN), items(VALID), 12, None, |training| training);
    for ranks in [1, 2, 3] {
        for (name, strategy) in strategies() {
            let outcomes = Threads::new(ranks).run(|world| {
                let directory = tempfile::tempdir().unwrap();
                let loader = |count| {
                    let dataset = InMemDataset::new(items(count));
                    RankLoader::new(&world, dataset, ToBatch, 12 / ranks).map(Arc::new)
                };
                let (train, valid) = (loader(TRAIN)?, loader(VALID)?);
                let model = strategy.clone().shard(Net::new(&world.device()), &world)?;
                let optim = world.optimizer(optimizer(), &model)?;
                let training = sharded(&world).training(directory.path(), train, valid);
                let (training, captured) = observed(training.num_epochs(EPOCHS), Some(&world));
                let result = training.launch(Learner::new(model, optim, schedule()));
                Outcome::sharded(&world, &captured, &result)
            })?;
            let found = outcomes.into_iter().next().flatten().unwrap();
            found.assert_close(&expected, &format!("{name} on {ranks} ranks"));
        }
    }
    Ok(())
}
