//! What fails on one rank ends all of them, with an error that says what it was.

use crate::program::{Batch, Item, Net, ToBatch, items, loader, observed, optimizer, schedule};
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::{Dataset, DatasetError, InMemDataset};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use burn_dist::launch::Threads;
use burn_dist::{Error, Result, Strategy, World};
use burn_dist_train::{RankLoader, output, sharded};
use burn_train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn_train::metric::MetricDefinition;
use burn_train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use burn_train::{InferenceStep, Learner, RegressionOutput, TrainOutput, TrainStep};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::tempdir;

fn launch(world: &World, train: Arc<dyn DataLoader<Batch>>) -> Result<()> {
    let directory = tempdir().unwrap();
    let model = Strategy::fsdp().shard(Net::new(&world.device()), world)?;
    let optim = world.optimizer(optimizer(), &model)?;
    let training = sharded(world).training(directory.path(), train, loader(items(8), 4));
    let (training, _) = observed(training, Some(world));
    training.launch(Learner::new(model, optim, schedule()));
    Ok(())
}

/// Item 30 cannot be read; rank 1 of 2 reads it.
struct Broken(InMemDataset<Item>);

impl Dataset<Item> for Broken {
    fn get(&self, index: usize) -> std::result::Result<Item, DatasetError> {
        if index == 30 {
            return Err(DatasetError::new(std::io::Error::other("the disk is gone")));
        }
        self.0.get(index)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

#[test]
fn an_item_that_cannot_be_read_ends_all_ranks() {
    let broken = || Broken(InMemDataset::new(items(41)));
    let found = Threads::new(2).run(|world| {
        launch(
            &world,
            DataLoaderBuilder::new(ToBatch)
                .batch_size(4)
                .build(broken()),
        )
    });
    let expected = "rank 1: training data of rank 1 cannot be read: the disk is gone";
    assert_eq!(found.unwrap_err().to_string(), expected);
    let found = Threads::new(2).run(|world| {
        let loader = RankLoader::new(&world, broken(), ToBatch, 4)?;
        launch(&world, Arc::new(loader))
    });
    let message = found.unwrap_err().to_string();
    assert!(
        message.contains("sample 30") && message.contains("the disk is gone"),
        "{message}"
    );
}

/// Panics at the last batch of a rank, which is shorter.
struct Panics;

impl Batcher<Item, Batch> for Panics {
    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        assert!(items.len() == 4, "a batch of {} items", items.len());
        ToBatch.batch(items, device)
    }
}

#[test]
fn a_panic_ends_all_ranks_and_is_reported() {
    let found = Threads::new(2).run(|world| {
        let loader = DataLoaderBuilder::new(Panics).batch_size(4);
        launch(&world, loader.build(InMemDataset::new(items(41))))
    });
    let error = found.unwrap_err();
    assert!(
        matches!(error, Error::Panicked { rank: 0 | 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("a batch of "), "{error}");
}

#[test]
fn loaders_of_different_lengths_are_an_error() {
    let found = Threads::new(2).run(|world| launch(&world, loader(items(40 + world.rank()), 4)));
    let message = found.unwrap_err().to_string();
    assert!(
        message.starts_with("training data differs between ranks"),
        "{message}"
    );
}

/// What a program's step does that was not changed, or changed wrongly.
#[derive(Module, Debug)]
struct Wrong {
    linear: Linear,
    #[module(skip)]
    calls: usize,
}

impl InferenceStep for Wrong {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> RegressionOutput {
        let output = self.linear.forward(batch.x);
        let loss = output.clone().powi_scalar(2).mean();
        let targets = Tensor::zeros(output.dims(), &output.device());
        RegressionOutput::new(loss, output, targets)
    }
}

impl TrainStep for Wrong {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> TrainOutput<RegressionOutput> {
        let item = InferenceStep::step(self, batch);
        let loss = item.loss.clone();
        for _ in 1..self.calls {
            output(self, loss.clone(), ());
        }
        match self.calls {
            0 => TrainOutput::new(self, loss.backward(), item),
            _ => output(self, loss, item),
        }
    }
}

fn with_calls(calls: usize) -> Result<Vec<()>> {
    Threads::new(2).run(|world| {
        let linear = LinearConfig::new(6, 2).init(&world.device());
        let model = Strategy::fsdp().shard(Wrong { linear, calls }, &world)?;
        let directory = tempdir().unwrap();
        let (train, valid) = (loader(items(8), 4), loader(items(8), 4));
        let training = sharded(&world).training(directory.path(), train, valid);
        let training = training.with_application_logger(None);
        let training = training.renderer(Box::new(burn_dist_train::Silent));
        training.launch(Learner::new(model, optimizer(), schedule()));
        Ok(())
    })
}

#[test]
fn a_step_that_runs_backward_itself_learns_what_to_write() {
    with_calls(1).unwrap();
    let message = with_calls(0).unwrap_err().to_string();
    assert!(message.contains("loss.backward()"), "{message}");
    assert!(
        message.contains("burn_dist_train::output(self, loss, item)"),
        "{message}"
    );
    let message = with_calls(2).unwrap_err().to_string();
    assert!(message.contains("a second call"), "{message}");
}

/// Notes when it goes, as a dashboard restores the terminal then.
struct Noting(Arc<AtomicBool>);

impl Drop for Noting {
    fn drop(&mut self) {
        // Long enough for an error that does not wait to be seen first.
        std::thread::sleep(Duration::from_millis(100));
        self.0.store(true, Ordering::SeqCst);
    }
}

impl MetricsRendererTraining for Noting {
    fn update_train(&mut self, _: MetricState) {}

    fn update_valid(&mut self, _: MetricState) {}
}

impl MetricsRendererEvaluation for Noting {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl MetricsRenderer for Noting {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _: MetricDefinition) {}
}

impl TrainingProgressLogger for Noting {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}

    fn update_epoch(&mut self, _: usize) {}

    fn start_split(&mut self, _: &str, _: usize) {}

    fn update_split(&mut self, _: usize) {}

    fn end_split(&mut self) {}

    fn end(&mut self) {}

    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Noting {
    fn start_global_progress(&mut self, _: usize) {}

    fn start_test(&mut self, _: &str, _: usize) {}

    fn update_test_progress(&mut self, _: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _: String) {}
}

/// In the loop (a batch that fails), and before it (a checkpoint without a folder).
#[test]
fn the_renderer_is_gone_before_an_error_leaves() {
    for (count, checkpoint) in [(41, None), (40, Some(2))] {
        let found = Threads::new(2).run(|world| {
            let directory = tempdir().unwrap();
            let train = DataLoaderBuilder::new(Panics).batch_size(4);
            let train = train.build(InMemDataset::new(items(count)));
            let model = Strategy::fsdp().shard(Net::new(&world.device()), &world)?;
            let optim = world.optimizer(optimizer(), &model)?;
            let training = sharded(&world).training(directory.path(), train, loader(items(8), 4));
            let (mut training, _) = observed(training, Some(&world));
            if let Some(epoch) = checkpoint {
                training = training.checkpoint(epoch);
            }
            let is_gone = Arc::new(AtomicBool::new(false));
            if world.is_chief() {
                training = training.renderer(Box::new(Noting(is_gone.clone())));
            }
            let learner = Learner::new(model, optim, schedule());
            let left = catch_unwind(AssertUnwindSafe(|| drop(training.launch(learner))));
            if world.is_chief() {
                assert!(
                    is_gone.load(Ordering::SeqCst),
                    "the renderer outlives the error"
                );
            }
            left.map_err(|payload| resume_unwind(payload))
        });
        let message = found.unwrap_err().to_string();
        assert!(!message.contains("outlives"), "{message}");
        let expected = checkpoint.map_or("a batch of ", |_| "no `save`");
        assert!(message.contains(expected), "{message}");
    }
}
