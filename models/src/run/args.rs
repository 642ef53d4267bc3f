//! The part of the command line that all examples share: ranks, strategy, batches, schedule, saves.

use super::values::{at_least_1, bound, probability, rate, share};
use super::{
    BestEpoch, LogArgs, LoraArgs, Monitor, OptimizerArgs, ScheduleKind, ShardingArgs, WeightArgs,
    global_batch,
};
use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn_dist::data::{Batch, BatchInfo, Dataset, Loader};
use burn_dist::launch::{DeviceKind, Flags, Launch};
use burn_dist::training::TrainLoop;
use burn_dist::{
    GradScaler, Precision, Result, Shadow, ShardedGradients, Stepper, Strategy, World,
};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// The training arguments that all examples share; a part of each example's own.
#[derive(Debug, Clone, Args, Serialize)]
pub struct RunArgs {
    /// Flags and their values, as TOML; flags on the command line are over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Ranks as threads of one process, each with its share of the cores [default: 2, on GPUs 1].
    #[arg(long, conflicts_with_all = ["nproc_per_node", "nnodes", "standalone"])]
    pub ranks: Option<usize>,

    /// Ranks as processes.
    #[command(flatten)]
    #[serde(skip)]
    pub launch: Flags,

    /// What to compute on: cpu, cuda or wgpu; on several GPUs each rank takes its own.
    #[arg(long, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,

    /// The sharding strategy: single, ddp, zero1, zero2, fsdp or hybrid:N.
    #[arg(long, default_value_t = Strategy::fsdp())]
    pub strategy: Strategy,

    /// What to compute and gather in: f32, bf16, or f16 with a loss scaler.
    #[arg(long, default_value_t = Precision::full())]
    pub precision: Precision,

    /// Keep only each block's input for backward, and run the block again there.
    #[arg(long)]
    pub recompute: bool,

    /// Compare the first K steps with one plain device; stop at the first unit that deviates.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub shadow: usize,

    /// Samples per rank and backward pass; --b is the same.
    #[arg(long, alias = "b", default_value_t = 32, value_parser = at_least_1)]
    pub per_gpu_batch: usize,

    /// Passes over the training set.
    #[arg(long, default_value_t = 10)]
    pub epochs: usize,

    /// Stop after so many steps, also within the epochs.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,

    /// Train with so many samples of the training set, drawn by the seed without repetition.
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub train_size: Option<usize>,

    /// Test with so many samples of the test set, drawn by the seed without repetition.
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub test_size: Option<usize>,

    /// Hold out this share of the training set: epochs are scored on it, and the test set only at the end.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub validation: Option<f64>,

    /// The score by which the best epoch is told.
    #[arg(long, value_enum, default_value_t = Monitor::Accuracy)]
    pub monitor: Monitor,

    /// Stop after so many epochs without a better one.
    #[arg(long, value_name = "EPOCHS", value_parser = at_least_1)]
    pub early_stopping: Option<usize>,

    /// Keep the save of the best epoch too, and test and export that one at the end.
    #[arg(long, requires = "save")]
    pub load_best_model_at_end: bool,

    /// The highest learning rate, reached after the warmup; 0 changes nothing.
    #[arg(long, default_value_t = 2e-3, value_parser = rate, allow_negative_numbers = true)]
    pub lr: f64,

    /// How the learning rate falls after the warmup.
    #[arg(long, value_enum, default_value_t = ScheduleKind::Cosine)]
    pub schedule: ScheduleKind,

    /// The share of the run in which the learning rate rises.
    #[arg(long, alias = "warm-up", value_name = "SHARE", default_value_t = 0.1, value_parser = probability)]
    pub warmup: f64,

    /// Threads of each rank that read and decode samples ahead.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_1)]
    pub num_workers: usize,

    /// The global gradient norm to clip at.
    #[arg(long, default_value_t = 1.0, value_parser = bound, allow_negative_numbers = true)]
    pub clip: f64,

    /// Backward passes per step; --grad-acc is the same.
    #[arg(long, alias = "grad-acc", default_value_t = 1, value_parser = at_least_1)]
    pub accumulate: usize,

    /// Seed of parameters, data order, augmentation and dropout.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Memory for less traffic.
    #[command(flatten)]
    pub sharding: ShardingArgs,
    /// Decay of weights and of rates.
    #[command(flatten)]
    pub optimizer: OptimizerArgs,

    /// The records of the run.
    #[command(flatten)]
    pub log: LogArgs,

    /// Pretrained weights, and the folder of the export.
    #[command(flatten)]
    pub weights: WeightArgs,

    /// Low-rank adapters.
    #[command(flatten)]
    pub lora: LoraArgs,

    /// Save to this folder, or to an s3://, gs:// or az:// URL with the feature of that name, after every epoch and on
    /// SIGTERM, Ctrl-C or SIGHUP.
    #[arg(long, value_name = "DIR|URL")]
    pub save: Option<PathBuf>,

    /// Resume from the last save in the folder given by --save; after a restart this is implied.
    #[arg(long, requires = "save")]
    pub resume: bool,

    /// Saves that stay: the last so many.
    #[arg(long, default_value_t = 1, value_name = "SAVES", value_parser = at_least_1, requires = "save")]
    pub keep: usize,
}

impl RunArgs {
    /// The ranks these arguments ask for.
    pub fn launch(&self) -> Launch {
        let threads = self.ranks.unwrap_or(match self.device {
            DeviceKind::Cpu => 2,
            _ => 1,
        });
        burn_dist::launch(&self.launch)
            .threads(threads)
            .device(self.device)
            .seed(self.seed)
    }

    /// The strategy, in the precision, with the recomputation, the options and the blocks these arguments ask for.
    ///
    /// # Errors
    /// As [`OptimizerArgs::strategy`].
    pub fn strategy(&self) -> Result<Strategy> {
        let strategy = self.sharding.on(self.strategy.clone());
        let strategy = self.optimizer.strategy(strategy)?;
        Ok(strategy.precision(self.precision).recompute(self.recompute))
    }

    /// The loss scaler that the precision needs: the saved one if it fits, or a new one.
    pub fn scaler(&self, saved: Option<GradScaler>) -> GradScaler {
        let needed = self.precision == Precision::f16();
        match (saved, needed) {
            (Some(saved), _) if saved.is_enabled() == needed => saved,
            (_, true) => GradScaler::new(),
            (_, false) => GradScaler::disabled(),
        }
    }

    /// The tolerance of `step` compared with one plain device, if it is one of the steps to compare.
    ///
    /// It is a multiple of the rounding of the type: f32 keeps 24 bits, f16 11, bf16 8.
    pub fn shadow(&self, step: usize, scaler: &GradScaler) -> Option<Shadow> {
        let tolerance = match self.precision {
            _ if self.sharding.quantized_gathers.is_some() => 0.15,
            p if p.is_full() => 1e-4,
            p if p == Precision::f16() => 0.03,
            _ => 0.15,
        };
        let shadow = Shadow::within(tolerance).step(step);
        let shadow = shadow.loss_scale(scaler.current_scale());
        (step < self.shadow).then_some(shadow)
    }

    /// Unscales and clips gradients, and steps the optimizer. Returns the norm too; an overflow on any rank
    /// skips the step on all, and there is none. Collective.
    ///
    /// # Errors
    /// As [`ShardedGradients::clip_norm`], [`GradScaler::unscale`] and [`Stepper::step`].
    pub fn update<M: Module>(
        &self,
        scaler: &mut GradScaler,
        gradients: ShardedGradients,
        stepper: &mut Stepper,
        rate: impl Into<ModuleLearningRate>,
        model: M,
    ) -> Result<(M, Option<f64>)> {
        let Some(gradients) = scaler.unscale(gradients)? else {
            return Ok((model, None));
        };
        let clipped = gradients.clip_norm(self.clip)?;
        let model = stepper.step(rate, model, clipped.grads)?;
        Ok((model, Some(clipped.norm)))
    }

    /// The best epoch so far, of a new run or of the one that a save holds.
    ///
    /// # Errors
    /// [`Error::Config`](burn_dist::Error::Config) if the save has its best epoch by another score.
    pub fn best_epoch(&self, saved: Option<BestEpoch>) -> Result<BestEpoch> {
        match saved {
            None => BestEpoch::none(self.monitor, self.early_stopping),
            Some(saved) => saved.resumed(self.monitor, self.early_stopping),
        }
    }

    /// This rank's share of a training set, in an order that changes with the epoch.
    ///
    /// # Errors
    /// [`Error::Config`](burn_dist::Error::Config) if a number on the command line is out of range.
    pub fn training<D: Dataset + 'static, B: Send + 'static>(
        &self,
        world: &World,
        data: D,
        collate: impl Fn(Vec<D::Item>, &BatchInfo) -> B + Send + Sync + 'static,
    ) -> Result<Loader<B>> {
        let loader = Loader::new(world, data, self.batch(), collate)?.shuffled(self.seed);
        loader.with_workers(self.num_workers)
    }

    /// This rank's share of a test set.
    ///
    /// # Errors
    /// As [`training`](Self::training).
    pub fn testing<D: Dataset + 'static, B: Send + 'static>(
        &self,
        world: &World,
        data: D,
        collate: impl Fn(Vec<D::Item>, &BatchInfo) -> B + Send + Sync + 'static,
    ) -> Result<Loader<B>> {
        Loader::new(world, data, self.batch(), collate)?.with_workers(self.num_workers)
    }

    /// Backward passes per step: `--accumulate`, or as many as keep the global batch of the first start, where
    /// the launcher has gone on with fewer or more ranks since.
    ///
    /// Where they cannot keep it, it stays `--accumulate`, and [`steps_over`](Self::steps_over) says so.
    pub fn passes(&self, world: &World) -> usize {
        let (initial, now) = (world.initial_size(), world.size());
        global_batch::passes(initial, self.accumulate, now).unwrap_or(self.accumulate)
    }

    fn batch(&self) -> Batch {
        Batch::per_rank(self.per_gpu_batch)
    }

    /// The steps of this run over a training set, none of them done; rank 0 logs it if its global batch is not
    /// that of the first start.
    ///
    /// # Errors
    /// [`Error::Config`](burn_dist::Error::Config) if a number on the command line is out of range.
    pub fn steps_over<B: Send + 'static>(
        &self,
        world: &World,
        data: &Loader<B>,
    ) -> Result<TrainLoop> {
        let all = TrainLoop::new(data).epochs(self.epochs);
        let (initial, now, accumulate) = (world.initial_size(), world.size(), self.accumulate);
        if world.is_chief() && global_batch::passes(initial, accumulate, now).is_none() {
            let line = global_batch::change(initial, accumulate, now, self.per_gpu_batch);
            log::warn!("{line}");
        }
        all.limit(self.steps).accumulate(self.passes(world))
    }

    /// The learning rate of the next step.
    pub fn rate(&self, steps: &TrainLoop) -> f64 {
        let schedule = self.schedule.to(self.lr).warmup_share(self.warmup);
        schedule.at(steps.done(), steps.steps())
    }
}
