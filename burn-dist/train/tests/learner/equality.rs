//! Losses, metrics and parameters are those of `ExecutionStrategy::single`.

use crate::program::{
    Captured, Item, Net, Number, Outcome, ToBatch, interleaved, items, loader, observed, optimizer,
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

/// Settings of the model itself.
type Setting = fn(&mut Net);
type Options = fn(Sharded<Net>) -> Sharded<Net>;
type Change = fn(SupervisedTraining<Net>) -> SupervisedTraining<Net>;

/// Burn's strategy for one device, on batches of `batch`.
fn single(
    train: Vec<Item>,
    valid: Vec<Item>,
    batch: usize,
    setting: Setting,
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
    setting(&mut model);
    let result = training.launch(Learner::new(model, optimizer(), schedule()));
    Outcome::plain(&captured, &result)
}

/// The same over ranks, with slices of Burn's loader.
fn sliced(
    ranks: usize,
    strategy: &Strategy,
    setting: Setting,
    options: Options,
    change: Change,
) -> Outcome {
    let outcomes = Threads::new(ranks).run(|world| {
        let directory = tempfile::tempdir().unwrap();
        let (train, valid) = (loader(items(TRAIN), BATCH), loader(items(VALID), BATCH));
        let mut model = Net::new(&world.device());
        setting(&mut model);
        let model = strategy.clone().shard(model, &world)?;
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

/// What is compared with one device.
struct Case {
    /// What the reference's model does itself, and what ours does.
    settings: [Setting; 2],
    options: Options,
    change: Change,
    look_at: fn(&Number) -> bool,
}

const PLAIN: Case = Case {
    settings: [|_| (), |_| ()],
    options: |sharded| sharded,
    change: |training| training,
    look_at: |_| true,
};

impl Case {
    fn compare(&self) {
        for ranks in 1..=3 {
            let order = |count| interleaved(&items(count), ranks, BATCH);
            let (train, valid) = (order(TRAIN), order(VALID));
            let [theirs, ours] = self.settings;
            let mut expected = single(train, valid, BATCH * ranks, theirs, self.change);
            expected.numbers.retain(self.look_at);
            for (name, strategy) in strategies() {
                let mut found = sliced(ranks, &strategy, ours, self.options, self.change);
                found.numbers.retain(self.look_at);
                found.assert_close(&expected, &format!("{name} on {ranks} ranks"));
            }
        }
    }
}

#[test]
fn slices_of_burns_loader_give_what_one_device_gives() {
    PLAIN.compare();
}

#[test]
fn accumulated_gradients_are_burns_sums() {
    let change: Change = |training| training.grads_accumulation(2);
    Case { change, ..PLAIN }.compare();
}

#[test]
fn gradients_are_clipped_by_the_norm_of_the_model() {
    let one = |setting: Setting| single(items(TRAIN), items(VALID), BATCH, setting, |t| t);
    let clips: Setting = |model| model.clip = Some(0.2);
    let parameters = [clips, |_| ()].map(|setting| one(setting).parameters);
    assert_ne!(parameters[0], parameters[1], "the clip does nothing");
    let case = Case {
        settings: [clips, |_| ()],
        options: |sharded| sharded.clip(0.2),
        ..PLAIN
    };
    case.compare();
}

/// Its divisor is the sum of the classes' weights, which differs from rank to rank.
#[test]
fn a_loss_that_is_no_mean_over_samples_tells_its_divisor() {
    let weighs: Setting = |model| model.is_weighted = true;
    let case = Case {
        settings: [weighs, weighs],
        // A validation step tells no divisor.
        look_at: |number| number.split == "train",
        ..PLAIN
    };
    case.compare();
}

/// The batches of one device, whatever the number of ranks, also where the last have fewer samples than ranks.
#[test]
fn a_rank_loader_gives_the_batches_of_one_device() -> Result<()> {
    let expected = single(items(TRAIN), items(VALID), 12, |_| (), |training| training);
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
