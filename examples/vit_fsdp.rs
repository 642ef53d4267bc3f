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
use burn_dist::launch::exit_code;
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist::optim::AdamWConfig;
use burn_dist::telemetry::{Phase, Tracked};
use burn_dist::{Error, Result, World};
use burn_dist_models::Vit;
use burn_dist_models::data::ImageBatch;
use burn_dist_models::hf::with_classes;
use burn_dist_models::run::{
    Images, Meter, VitArgs, evaluate, same_arguments, same_classes, shard_pretrained,
};
use burn_dist_models::vit::hf_name;
use clap::Parser;
use env_logger::Env;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// Counts memory for the closing table; mimalloc allocates large tensors faster than the system does.
#[global_allocator]
static MEMORY: Tracked<MiMalloc> = Tracked::new(MiMalloc);

fn main() -> ExitCode {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    let args = VitArgs::parse();
    // (1) Every rank runs `train`: as threads, or as processes that flags or a launcher ask for.
    // An error or a panic on one of them ends all.
    let result = args.run.launch().run(|world| train(&args, &world));
    if let Err(error) = &result {
        eprintln!("error: {error}");
    }
    ExitCode::from(exit_code(&result))
}

fn train(args: &VitArgs, world: &World) -> Result<()> {
    let run = &args.run;
    // Another learning rate on one rank would cause no error, so the arguments of all ranks are compared.
    same_arguments(world, args)?;
    run.try_folders(world)?;
    let (config, pretrained) = args.model(world)?;
    let Images {
        train: data,
        test,
        classes,
        preprocessor,
    } = args.data(world, &config, pretrained.as_ref())?;

    // (2) `init` allocates nothing; sharding initialises one parameter after the other, keeps this rank's
    // shard of each, and returns the same type. Of pretrained weights a rank reads only its own shards.
    let model = config.init(&world.device()).map_err(Error::user)?;
    let weights = pretrained.map(|p| p.weights(hf_name)).transpose()?;
    let strategy = run.strategy();
    let plan = strategy.plan(&model, world.size())?;
    let plan = plan.for_micro_batches(run.passes(world));
    let mut meter = Meter::new(world, &plan)?;
    let mut model = shard_pretrained(world, strategy, model, weights.as_ref())?;

    // (3) Any element-wise Burn optimizer steps the shards; this one in one pass. Others are refused.
    let adamw = AdamWConfig::new()
        .with_weight_decay(0.05)
        .with_epsilon(1e-8);
    let mut optimizer = world.optimizer(adamw.init(), &model)?;

    // The program's own part of a save: which samples were seen, the loss scale, which is 1
    // except in f16, and how the classes are numbered.
    let mut steps = run.steps_over(world, &data)?;
    let mut scaler = run.scaler(None);
    if let Some(folder) = run.resumes(world)? {
        let (progress, saved, named);
        (model, optimizer, (progress, saved, named)) = world.load(folder, model, optimizer)?;
        scaler = run.scaler(Some(saved));
        same_classes(named, &classes)?;
        steps.resume(&progress)?;
        meter.resumed(steps.done(), folder);
    }
    meter.begin(steps.steps(), steps.done());

    // All ranks evaluate together, and each sample counts once.
    let evaluated = |model: &Vit| {
        let model = model.valid();
        evaluate(world, &test, |batch: ImageBatch| {
            model.forward(batch.images)
        })
    };
    let loss = |model: &Vit, batch: &ImageBatch| {
        let logits = model.forward(batch.images.clone());
        let (labels, weights) = (batch.labels.clone(), batch.weights.clone());
        cross_entropy_sum(logits, labels, Some(weights))
    };
    let mut last = None;
    while let Some(mut batches) = steps.epoch(&data)? {
        while let Some(passes) = meter.time(Phase::Data, || steps.step(&mut batches))? {
            // With --shadow: the same step on one plain device, compared unit by unit.
            if let Some(shadow) = run.shadow(steps.done(), &scaler) {
                let one = |model: &Vit, n: usize| (loss(model, &passes[n]), passes[n].count);
                let compared = world.shadow(&model, shadow, passes.len(), one)?;
                meter.shadowed(steps.done(), &compared);
            }
            // (4) Gradients come averaged over the samples of all ranks, sharded as parameters are.
            let mut gradients = world.accumulate(&model)?.micro_batches(passes.len());
            for pass in &passes {
                let count = pass.count;
                let sum = meter.forward(count, || loss(&model, pass));
                let sum = scaler.scale(sum);
                meter.time(Phase::Backward, || gradients.add_sum(sum, count))?;
            }
            let gradients = meter.time(Phase::Backward, || gradients.finish())?;
            // Clipped by the norm of the whole model; Burn's own optimizer steps the shards.
            let (stepped, norm) = meter.time(Phase::Optimizer, || {
                run.update(
                    &mut scaler,
                    gradients,
                    &mut optimizer,
                    run.rate(&steps),
                    model,
                )
            })?;
            model = stepped;
            steps.advance();
            meter.step(norm)?;

            // (5) After SIGTERM or Ctrl-C on any rank, all save at the end of the step and return.
            if world.should_stop()? {
                let state = (steps.progress(), &scaler, &classes);
                run.checkpoint(world, steps.done(), (&model, &optimizer), &state)?;
                run.wait_for_save(world)?;
                return meter.stop(steps.done(), run.save.as_deref());
            }
        }

        drop(batches);
        meter.between_steps()?;

        // (6) Every rank writes its shards while training goes on. If one is killed meanwhile, the save before remains.
        let state = (steps.progress(), &scaler, &classes);
        run.checkpoint(world, steps.done(), (&model, &optimizer), &state)?;
        let Some(score) = evaluated(&model)? else {
            return meter.stop(steps.done(), run.save.as_deref());
        };
        meter.epoch(steps.epochs_begun(), &score);
        last = Some(score);
    }

    let last = match last {
        Some(score) => Some(score),
        None => evaluated(&model)?,
    };
    let Some(score) = last else {
        return meter.stop(steps.done(), run.save.as_deref());
    };
    meter.finish(score, run.passes(world))?;
    // An export with the files that other programs need to open it.
    let json = with_classes(&config.to_hf(), &classes).map_err(Error::user)?;
    let mut beside = vec![("config.json", json)];
    beside.extend(preprocessor.map(|images| ("preprocessor_config.json", images.to_hf())));
    run.weights.export_model(world, &model, hf_name, &beside)
}
