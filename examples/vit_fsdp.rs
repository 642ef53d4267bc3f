//! Train a Vision Transformer with fully sharded data parallelism.
//!
//! ```text
//! cargo run --release --example vit_fsdp                              two ranks, nothing to download
//! cargo run --release --example vit_fsdp -- --strategy ddp            the strategy is a value
//! cargo run --release --example vit_fsdp -- --data cifar-10-batches-bin --epochs 25
//! cargo run --release --example vit_fsdp -- --nproc-per-node 2       ranks as processes
//! cargo run --release --example vit_fsdp -- --help                    everything else
//! ```
//!
//! The places that make it distributed are numbered (1) to (6); the rest is a Burn program.

use burn::module::Module;
use burn::optim::AdamWConfig;
use burn_dist::launch::exit_code;
use burn_dist::telemetry::{Phase, Tracked};
use burn_dist::{Error, Result, World};
use clap::Parser;
use env_logger::Env;
use mimalloc::MiMalloc;
use models::Noise;
use models::loss::cross_entropy_sum;
use models::run::{Args, Meter, evaluate};
use std::process::ExitCode;

/// Counts memory for the closing table; mimalloc hands out large tensors faster than the system.
#[global_allocator]
static MEMORY: Tracked<MiMalloc> = Tracked::new(MiMalloc);

fn main() -> ExitCode {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    let args = Args::parse();
    // (1) Every rank runs `train`: as threads, or as processes that flags or a launcher ask for.
    // An error or a panic on one of them ends all.
    let result = args.launch().run(|world| train(&args, &world));
    if let Err(error) = &result {
        eprintln!("error: {error}");
    }
    ExitCode::from(exit_code(&result))
}

fn train(args: &Args, world: &World) -> Result<()> {
    let (data, test) = args.data(world)?;

    // (2) `init` allocates nothing; `shard` makes one parameter after the other and keeps this
    // rank's piece of each. The same type comes back.
    let model = args.config().init(&world.device()).map_err(Error::user)?;
    let plan = args.strategy.plan(&model, world.size())?;
    let mut meter = Meter::new(world, &plan)?;
    let mut model = args.strategy.clone().shard(model, world)?;

    // (3) Burn's own optimizer steps the pieces; one that would be wrong on them is refused.
    let adamw = AdamWConfig::new()
        .with_weight_decay(0.05)
        .with_epsilon(1e-8);
    let mut optimizer = world.optimizer(adamw.init(), &model)?;

    // The user's own part of a save: how many steps are done.
    let mut step: usize = 0;
    if let Some(folder) = args.resumes(world)? {
        (model, optimizer, step) = world.load(folder, model, optimizer)?;
        meter.resumed(step, folder);
    }

    let epoch_steps = args.epoch_steps(data.steps());
    let steps = args.total_steps(data.steps());
    let schedule = args.schedule(steps);
    let mut last = None;
    meter.begin(steps, step);
    while step < steps {
        let (epoch, skip) = (step / epoch_steps, step % epoch_steps * args.accumulate);
        let mut batches = data.resume(epoch as u64, skip)?;
        while step < steps {
            let take = || {
                batches
                    .by_ref()
                    .take(args.accumulate)
                    .collect::<Result<Vec<_>>>()
            };
            let micro_batches = meter.time(Phase::Data, take)?;
            if micro_batches.is_empty() {
                break;
            }
            // (4) Gradients come averaged over the samples of all ranks, cut as parameters are.
            let mut gradients = world.accumulate(&model)?;
            let (mut loss, mut samples) = (0.0, 0);
            for (call, batch) in micro_batches.into_iter().enumerate() {
                let call = (step * args.accumulate + call) as u64;
                let noise = Noise::new(args.seed, call, world.rank() as u32);
                let sum = meter.time(Phase::Forward, || {
                    let logits = model.forward_train(batch.images, noise);
                    cross_entropy_sum(logits, batch.labels, Some(batch.weights))
                });
                loss += f64::from(sum.clone().into_scalar::<f32>());
                samples += batch.count;
                meter.time(Phase::Backward, || gradients.add_sum(sum, batch.count))?;
            }
            let gradients = meter.time(Phase::Backward, || gradients.finish())?;
            let (stepped, norm) = meter.time(Phase::Optimizer, || {
                let clipped = gradients.clip_norm(args.clip)?;
                let stepped = optimizer.step(schedule.at(step), model, clipped.grads);
                Ok::<_, Error>((stepped, clipped.norm))
            })?;
            model = stepped;
            step += 1;
            meter.step(loss, samples, norm)?;

            // (5) SIGTERM or Ctrl-C on any rank: the step is done, so save, and leave.
            if world.should_stop()? {
                if let Some(folder) = &args.save {
                    world.save(folder, &model, &optimizer, &step)?;
                }
                return meter.stop(step, args.save.as_deref());
            }
        }

        // All ranks evaluate together, and each sample counts once.
        let valid = model.valid();
        let score = evaluate(world, &test, |images| valid.forward(images))?;
        meter.epoch(epoch + 1, &score);
        last = Some(score);

        // (6) Every rank writes its pieces; a kill at any moment leaves the save before.
        if let Some(folder) = &args.save {
            world.save(folder, &model, &optimizer, &step)?;
        }
    }

    let score = match last {
        Some(score) => score,
        None => {
            let valid = model.valid();
            evaluate(world, &test, |images| valid.forward(images))?
        }
    };
    meter.finish(score, args.accumulate).map(drop)
}
