//! Train a Vision Transformer with fully sharded data parallelism.
//!
//! ```text
//! cargo run --release --example vit_fsdp                              two ranks, nothing to download
//! cargo run --release --example vit_fsdp -- --strategy ddp            the strategy is a value
//! cargo run --release --example vit_fsdp -- --data cifar-10-batches-bin --epochs 20
//! cargo run --release --example vit_fsdp -- --help                    everything else
//! ```
//!
//! The lines that make it distributed are marked with (1) to (5); the rest is a Burn program.

use burn::module::Module;
use burn::optim::AdamWConfig;
use burn_dist::telemetry::{Phase, Phases, Tracked, peak_bytes, reset_peak};
use burn_dist::{Error, Result, Strategy, World};
use clap::Parser;
use mimalloc::MiMalloc;
use models::Noise;
use models::loss::cross_entropy_sum;
use models::run::{Args, Progress, Report, evaluate};
use std::process::ExitCode;

/// Counts memory for the report; mimalloc is much faster at large tensors than the system is.
#[global_allocator]
static MEMORY: Tracked<MiMalloc> = Tracked::new(MiMalloc);

fn main() -> ExitCode {
    env_logger::init();
    let args = Args::parse();
    // (1) Every rank runs `train`; an error or a panic on one ends all of them.
    match args.launch().run(|world| train(&args, &world)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn train(args: &Args, world: &World) -> Result<Report> {
    let strategy = args.strategy.clone().unwrap_or(Strategy::fsdp());
    let (data, test) = args.data(world)?;
    let start = reset_peak();

    // (2) Nothing is allocated by `init`; `shard` makes one parameter after the other, and keeps
    // this rank's piece. The same type comes back.
    let model = args.config().init(&world.device()).map_err(Error::user)?;
    let plan = strategy.plan(&model, world.size())?;
    if world.is_chief() {
        println!("{plan}");
    }
    let mut model = strategy.shard(model, world)?;

    // (3) Burn's own optimizer, which steps the pieces; refused if it would be wrong on them.
    let adamw = AdamWConfig::new()
        .with_weight_decay(0.05)
        .with_epsilon(1e-8);
    let mut optimizer = world.optimizer(adamw.init(), &model)?;

    // What is saved beside model and optimizer: the epochs that are done.
    let mut done = 0;
    if let (true, Some(folder)) = (args.resume, &args.save) {
        (model, optimizer, done) = world.load(folder, model, optimizer)?;
    }

    let steps = args.total_steps(data.steps());
    let schedule = args.schedule(steps);
    let mut step = done * data.steps().div_ceil(args.accumulate);
    let first = step;
    let mut progress = Progress::new(world, steps, step);
    let mut phases = Phases::new(world);
    let (mut losses, mut sent) = (Vec::new(), 0);

    for epoch in done..args.epochs {
        let mut batches = data.epoch(epoch as u64)?;
        let before = Report::sent(world.ledger(), &plan);
        while step < steps {
            let take = || {
                batches
                    .by_ref()
                    .take(args.accumulate)
                    .collect::<Result<Vec<_>>>()
            };
            let micro_batches = phases.time(Phase::Data, take)?;
            if micro_batches.is_empty() {
                break;
            }
            // (4) Gradients come averaged over the samples of all ranks, cut as parameters are.
            let mut gradients = world.accumulate(&model)?;
            let (mut loss, mut samples) = (0.0, 0);
            for (call, batch) in micro_batches.into_iter().enumerate() {
                let call = (step * args.accumulate + call) as u64;
                let noise = Noise::new(args.seed, call, world.rank() as u32);
                let sum = phases.time(Phase::Forward, || {
                    let logits = model.forward_train(batch.images, noise);
                    cross_entropy_sum(logits, batch.labels, Some(batch.weights))
                });
                loss += f64::from(sum.clone().into_scalar::<f32>());
                samples += batch.count;
                phases.time(Phase::Backward, || gradients.add_sum(sum, batch.count))?;
            }
            let gradients = phases.time(Phase::Backward, || gradients.finish())?;
            let (stepped, norm) = phases.time(Phase::Optimizer, || {
                let clipped = gradients.clip_norm(args.clip)?;
                let stepped = optimizer.step(schedule.at(step), model, clipped.grads);
                Ok::<_, Error>((stepped, clipped.norm))
            })?;
            model = stepped;
            progress.step(loss, samples, norm)?;
            step += 1;
        }
        sent += Report::sent(world.ledger(), &plan) - before;

        // Evaluation by all ranks, each sample once.
        let valid = model.valid();
        let score = evaluate(world, &test, |images| valid.forward(images))?;
        let text = format!(
            "epoch {}: test accuracy {:.1} %",
            epoch + 1,
            100.0 * score.accuracy
        );
        losses.push(progress.line(&text));

        // (5) Every rank writes its pieces; a kill at any moment leaves the save before.
        if let Some(folder) = &args.save {
            world.save(folder, &model, &optimizer, &(epoch + 1))?;
        }
        if step == steps {
            break;
        }
    }
    progress.finish();

    let (planned_sent, planned_peak) = Report::planned(&plan, args.accumulate);
    let valid = model.valid();
    let report = Report {
        evaluation: evaluate(world, &test, |images| valid.forward(images))?,
        loss: losses.last().copied().unwrap_or(f64::NAN),
        throughput: progress.throughput(),
        time: Report::split(&phases),
        sent_bytes: (sent as f64 / (step - first).max(1) as f64, planned_sent),
        peak_bytes: (
            (peak_bytes() - start) as f64 / world.size() as f64,
            planned_peak,
        ),
    };
    report.print(world)?;
    match losses.as_slice() {
        [first, .., last] if last >= first => Err(Error::user(format!(
            "the loss did not fall: {first:.3} to {last:.3}"
        ))),
        _ => Ok(report),
    }
}
