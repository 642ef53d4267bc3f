//! Burn's `Learner` over the ranks of [burn-dist](burn_dist): sharded, on threads, processes and hosts.
//!
//! A program that trains with [`SupervisedTraining`](burn_train::SupervisedTraining) changes four lines, and
//! the one in its step that runs backward:
//!
//! | on one device | over ranks |
//! |---|---|
//! | `train(..)` | `burn_dist::launch(&flags).threads(2).run(\|world\| train(&world, ..))` |
//! | `Model::new(..)` | `Strategy::fsdp().shard(Model::new(..), &world)?` |
//! | `AdamWConfig::new().init()` | `world.optimizer(AdamWConfig::new().init(), &model)?` |
//! | `SupervisedTraining::new(dir, train, valid)` | `sharded(&world).clip(1.0).save(save, &optim).training(dir, train, valid)` |
//! | `TrainOutput::new(self, loss.backward(), item)` | `output(self, loss, item)` |
//!
//! Metrics, renderers, schedules, early stopping, interrupters, accumulation and `checkpoint(epoch)` stay as
//! they are. A step has `batch size` samples of every rank; losses and metrics are those of one device that
//! has all of them.
//!
//! ```
//! use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
//! use burn::data::dataset::InMemDataset;
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::{AdamWConfig, lr_scheduler::constant::ConstantLr};
//! use burn::tensor::{Device, Tensor};
//! use burn_dist::{Destination, Strategy, launch::Threads};
//! use burn_dist_train::{output, sharded};
//! use burn_train::metric::LossMetric;
//! use burn_train::{InferenceStep, Learner, RegressionOutput, TrainOutput, TrainStep};
//!
//! #[derive(Module, Debug)]
//! struct Model {
//!     linear: Linear,
//! }
//!
//! impl InferenceStep for Model {
//!     type Input = Tensor<2>;
//!     type Output = RegressionOutput;
//!
//!     fn step(&self, x: Tensor<2>) -> RegressionOutput {
//!         let y = self.linear.forward(x.clone());
//!         let sums = x.sum_dim(1);
//!         let loss = (y.clone() - sums.clone()).powi_scalar(2).mean();
//!         RegressionOutput::new(loss, y, sums)
//!     }
//! }
//!
//! impl TrainStep for Model {
//!     type Input = Tensor<2>;
//!     type Output = RegressionOutput;
//!
//!     fn step(&self, x: Tensor<2>) -> TrainOutput<RegressionOutput> {
//!         let item = InferenceStep::step(self, x);
//!         output(self, item.loss.clone(), item)
//!     }
//! }
//!
//! struct Rows;
//!
//! impl Batcher<f32, Tensor<2>> for Rows {
//!     fn batch(&self, items: Vec<f32>, device: &Device) -> Tensor<2> {
//!         let rows: Vec<[f32; 3]> = items.iter().map(|n| [n.sin(), n.cos(), 0.5]).collect();
//!         Tensor::<1>::from_data(rows.as_flattened(), device).reshape([-1, 3])
//!     }
//! }
//!
//! # let folder = std::env::temp_dir().join(format!("burn-dist-train-doc-{}", std::process::id()));
//! let sums = Threads::new(2).run(|world| {
//!     let numbers = |count: usize| InMemDataset::new((0..count).map(|n| n as f32).collect());
//!     let loader = |count| DataLoaderBuilder::new(Rows).batch_size(8).build(numbers(count));
//!     let model = Model { linear: LinearConfig::new(3, 1).init(&world.device()) };
//!     let model = Strategy::fsdp().shard(model, &world)?;
//!     let optim = world.optimizer(AdamWConfig::new().init(), &model)?;
//!     # let directory = folder.clone();
//!     let training = sharded(&world).clip(1.0).training(directory, loader(100), loader(33));
//!     # let training = training.renderer(Box::new(burn_dist_train::Silent));
//!     # let training = training.with_application_logger(None);
//!     let training = training.metrics((LossMetric::new(),)).num_epochs(30);
//!     let result = training.launch(Learner::new(model, optim, ConstantLr::new(0.03)));
//!     let whole = world.full(&result.model, Destination::Chief)?;
//!     Ok(whole.map(|model| model.linear.weight.val().into_data().iter::<f32>().next()))
//! })?;
//! # let _ = std::fs::remove_dir_all(folder);
//! let weight = sums[0].flatten().unwrap_or_default();
//! assert!((weight - 1.0).abs() < 0.1, "{weight}");
//! # Ok::<(), burn_dist::Error>(())
//! ```
//!
//! # Where things are
//!
//! - [`sharded`] begins the strategy, [`Sharded`] has its options, [`output`] is for the model's step;
//! - [`RankLoader`] gives the batches of one device, whatever the number of ranks;
//! - [`RankOutput`] is for outputs of one's own, [`Silent`] for builders of one's own.
//!
//! Inside, arrows point down: `strategy` (what is done before the loop) uses `fit` (the loop), which uses
//! `feed` (what all ranks do next), `gather` (outputs for rank 0), `output` (the loss of a step), and
//! `sharded` (the options) with `saves`.
//!
//! # What differs from one device
//!
//! - Burn's gradient clipping, in the optimizer, is by tensor: use [`Sharded::clip`].
//! - Burn's checkpointers would write files of shards: use [`Sharded::save`].
//! - Burn's `gradient_checkpointing()` does nothing here, as in every custom strategy: use
//!   [`Strategy::recompute`](burn_dist::Strategy::recompute).
//! - A batch norm normalises by the samples of its rank.
//! - An error of any rank ends all of them and comes out of [`launch`](burn_dist::launch::Launch::run);
//!   `LearningResult::error` is never set.

mod feed;
mod fit;
mod gather;
mod output;
mod parts;
mod raise;
mod rank_loader;
mod rank_output;
mod saves;
mod sharded;
mod silent;
mod strategy;

pub use output::{output, output_over};
pub use parts::{JoinedParts, Parts};
pub use rank_loader::RankLoader;
pub use rank_output::RankOutput;
pub use sharded::{Sharded, sharded};
pub use silent::Silent;
