//! A program of Burn's `Learner` under FSDP; the lines that differ from one device are numbered.
//!
//! `cargo run --release -p burn-dist-train --example learner_fsdp` runs two threads, `-- --nproc-per-node 2`
//! behind it two processes, and `-- --resume` goes on from the last save.

use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig, loss::CrossEntropyLossConfig};
use burn::optim::{AdamWConfig, lr_scheduler::linear::LinearLrSchedulerConfig};
use burn::tensor::{Device, Int, Tensor, activation::gelu};
use burn_dist::launch::{Flags, exit_code};
use burn_dist::{Error, Result, Strategy, World, unit};
use burn_dist_train::{output, sharded};
use burn_train::metric::{AccuracyMetric, LossMetric};
use burn_train::{ClassificationOutput, InferenceStep, Learner, TrainOutput, TrainStep};
use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    launch: Flags,
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    #[arg(long)]
    resume: bool,
}

#[derive(Module, Debug)]
struct Mlp {
    blocks: Vec<Linear>,
}

impl InferenceStep for Mlp {
    type Input = (Tensor<2>, Tensor<1, Int>);
    type Output = ClassificationOutput;
    fn step(&self, (x, classes): Self::Input) -> ClassificationOutput {
        let x = unit(self, x, |mlp, x| {
            let run = |x, block| unit(block, x, |block: &Linear, x| gelu(block.forward(x)));
            mlp.blocks.iter().fold(x, run)
        });
        let loss = CrossEntropyLossConfig::new().init(&x.device());
        ClassificationOutput::new(loss.forward(x.clone(), classes.clone()), x, classes)
    }
}

impl TrainStep for Mlp {
    type Input = (Tensor<2>, Tensor<1, Int>);
    type Output = ClassificationOutput;
    fn step(&self, batch: Self::Input) -> TrainOutput<ClassificationOutput> {
        let item = InferenceStep::step(self, batch);
        output(self, item.loss.clone(), item) // (1) TrainOutput::new(self, loss.backward(), item)
    }
}

/// Makes points in a square of their numbers, and computes their class.
struct Points;

impl Batcher<usize, (Tensor<2>, Tensor<1, Int>)> for Points {
    fn batch(&self, numbers: Vec<usize>, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let point = |n: usize| [0.618, 0.755].map(|f| (n as f32 * f).fract() * 4.0);
        let class = |[x, y]: [f32; 2]| (x.sin() * y.cos() > 0.0) as i64 + (x > y) as i64;
        let points: Vec<_> = numbers.into_iter().map(point).collect();
        let classes: Vec<i64> = points.iter().map(|point| class(*point)).collect();
        let points = Tensor::<1>::from_data(points.as_flattened(), device).reshape([-1, 2]);
        (points, Tensor::from_data(classes.as_slice(), device))
    }
}

fn train(world: &World, resume: bool) -> Result<()> {
    let loader = || DataLoaderBuilder::new(Points).batch_size(32);
    let points = |range: std::ops::Range<usize>| InMemDataset::new(range.collect());
    let (train, valid) = (points(0..5000), points(5000..6001));
    let (train, valid) = (loader().shuffle(7).build(train), loader().build(valid));
    let sizes = [2, 64, 64, 64, 3];
    let block = |size: &[usize]| LinearConfig::new(size[0], size[1]).init(&world.device());
    let blocks = sizes.windows(2).map(block).collect();
    let model = Strategy::fsdp().shard(Mlp { blocks }, world)?; // (2) Mlp { blocks }
    let optim = world.optimizer(AdamWConfig::new().init(), &model)?; // AdamWConfig::new().init()
    let strategy = sharded(world).clip(1.0).save("learner/save", &optim);
    let strategy = if resume { strategy.resume() } else { strategy };
    let training = strategy.training("learner", train, valid); // (3) SupervisedTraining::new(..)
    let metrics = (AccuracyMetric::new(), LossMetric::new());
    let training = training.metrics(metrics).num_epochs(10).summary();
    let schedule = LinearLrSchedulerConfig::new(0.01, 0.0005, 600).init();
    let schedule = schedule.map_err(Error::user)?;
    training.launch(Learner::new(model, optim, schedule));
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let launch = burn_dist::launch(&args.launch).threads(args.ranks);
    let result = launch.run(|world| train(&world, args.resume)); // (4) train(..)
    let result = result.inspect_err(|error| eprintln!("error: {error}"));
    exit_code(&result).into()
}
