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
use burn_dist::data::Loader;
use burn_dist::launch::exit_code;
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist::optim::Ema;
use burn_dist::telemetry::{Phase, Tracked};
use burn_dist::{Error, Result, World};
use burn_dist_models::Vit;
use burn_dist_models::data::ImageBatch;
use burn_dist_models::hf::with_classes;
use burn_dist_models::run::{
    CommandLine, Images, VitArgs, Work, evaluate, parse, same_arguments, same_classes,
    shard_pretrained,
};
use burn_dist_models::vit::hf_name;
use env_logger::Env;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// Counts memory for the closing table; mimalloc allocates large tensors faster than the system does.
#[global_allocator]
static MEMORY: Tracked<MiMalloc> = Tracked::new(MiMalloc);

/// The paths of the model's blocks.
const BLOCKS: &str = "blocks.*";

fn main() -> ExitCode {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    let line = parse::<VitArgs>();
    // (1) Every rank runs `train`: as threads, or as processes that flags or a launcher ask for.
    // An error or a panic on one of them ends all.
    let result = line.args.run.launch().run(|world| train(&line, &world));
    if let Err(error) = &result {
        eprintln!("error: {error}");
    }
    ExitCode::from(exit_code(&result))
}

fn train(line: &CommandLine<VitArgs>, world: &World) -> Result<()> {
    let args = &line.args;
    let run = &args.run;
    // Another learning rate on one rank would cause no error, so the arguments of all ranks are compared.
    same_arguments(world, args)?;
    run.try_folders(world)?;
    let (config, pretrained) = args.model(world)?;
    let Images {
        train: data,
        validation,
        test,
        classes,
        preprocessor,
    } = args.data(world, &config, pretrained.as_ref())?;

    // (2) `init` allocates nothing; sharding initialises one parameter after the other, keeps this rank's
    // shard of each, and returns the same type. Of pretrained weights a rank reads only its own shards.
    let model = config.init(&world.device()).map_err(Error::user)?;
    let weights = pretrained.map(|p| p.weights(hf_name)).transpose()?;
    let adapters = run.lora.open(hf_name)?;
    let drawn = weights.is_none();
    let strategy = run.strategy()?;
    let strategy = run
        .lora
        .strategy(world, strategy, &model, adapters.as_ref(), drawn)?;
    let plan = strategy.plan(&model, world.size())?;
    let plan = run.optimizer.plan(plan, &model, BLOCKS)?;
    let plan = plan.for_micro_batches(run.passes(world));
    let mut meter = run.meter(world, &args.name(), (args, &line.config), &plan)?;
    let model = shard_pretrained(world, strategy, model, weights.as_ref())?;
    let mut model = run.lora.load(world, model, adapters.as_ref())?;

    // (3) Any Burn optimizer: AdamW steps the shards, Muon's matrices go whole to their owners.
    // Biases and norms do not decay, and with --layer-decay the first blocks learn the least.
    let (mut stepper, rates) = run.optimizer.of(world, &model, BLOCKS)?;
    meter.owners(&stepper);
    // With --ema, what is scored and exported.
    let mut ema = run.optimizer.average(world, &model)?;

    // The program's own part of a save: which samples were seen, the loss scale, which is 1
    // except in f16, and how the classes are numbered.
    let mut steps = run.steps_over(world, &data)?;
    let mut scaler = run.scaler(None);
    let mut best_epoch = run.best_epoch(None)?;
    if let Some(folder) = run.resumes(world)? {
        let (progress, saved, named, best);
        (model, stepper, ema, (progress, saved, named, best)) =
            run.load(world, folder, (model, stepper), ema)?;
        scaler = run.scaler(Some(saved));
        same_classes(named, &classes)?;
        steps.resume(&progress)?;
        best_epoch = run.best_epoch(Some(best))?;
        meter.resumed(steps.done(), steps.epochs_done(), folder);
    }
    meter.begin(steps.steps(), steps.done());

    // All ranks evaluate together, and each sample counts once.
    let evaluated = |model: &Vit, set: &Loader<ImageBatch>| {
        let model = model.valid();
        evaluate(world, set, classes.len(), |batch: ImageBatch| {
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
                let work = Work::of_images(&config, pass);
                let sum = meter.forward(work, || loss(&model, pass));
                let sum = scaler.scale(sum);
                meter.time(Phase::Backward, || gradients.add_sum(sum, count))?;
            }
            let gradients = meter.time(Phase::Backward, || gradients.finish())?;
            meter.gradients(&gradients, &scaler)?;
            // Clipped by the norm of the whole model; Burn's own optimizer steps shards, and what it needs whole.
            let rate = run.rate(&steps);
            let (stepped, norm) = meter.time(Phase::Optimizer, || {
                run.update(&mut scaler, gradients, &mut stepper, rates.at(rate), model)
            })?;
            model = stepped;
            // A step that the loss scaler has skipped is none for the average either.
            if let Some(ema) = ema.as_mut().filter(|_| norm.is_some()) {
                ema.update(&model)?;
            }
            steps.advance();
            meter.step(rate, norm)?;

            // (5) After SIGTERM or Ctrl-C on any rank, all save at the end of the step and return.
            if world.should_stop()? {
                let state = (steps.progress(), &scaler, &classes, &best_epoch);
                run.checkpoint(
                    world,
                    steps.done(),
                    (&model, &stepper, ema.as_ref()),
                    None,
                    &state,
                )?;
                run.wait_for_save(world)?;
                return meter.stop(steps.done(), run.save.as_deref());
            }
        }

        drop(batches);
        meter.between_steps()?;

        // All ranks score the epoch together, and have the same scores.
        let (set, scored) = match &validation {
            Some(held_out) => ("validation", held_out),
            None => ("test", &test),
        };
        let scores =
            meter.evaluation(|| evaluated(ema.as_ref().map_or(&model, Ema::model), scored))?;
        let score = scores.as_ref().map(|scores| run.monitor.of(scores));
        let is_best = match &scores {
            Some(scores) => best_epoch.update(world, scores)?,
            None => false,
        };
        // (6) Every rank writes its shards while training goes on. If one is killed meanwhile, the save before remains.
        let state = (steps.progress(), &scaler, &classes, &best_epoch);
        run.checkpoint(
            world,
            steps.done(),
            (&model, &stepper, ema.as_ref()),
            score,
            &state,
        )?;
        let Some(scores) = scores else {
            return meter.stop(steps.done(), run.save.as_deref());
        };
        meter.epoch(set, &scores, is_best, &model)?;
        last = Some(scores);
        if best_epoch.should_stop() {
            meter.stopped_early(run.early_stopping);
            break;
        }
    }

    let model = ema.map_or(model, Ema::into_model);
    let model = run.best_model(world, model)?;
    let last = match last {
        Some(scores) if !run.tests_at_end() => Some(scores),
        _ => evaluated(&model, &test)?,
    };
    let Some(scores) = last else {
        return meter.stop(steps.done(), run.save.as_deref());
    };
    meter.finish(scores, run.passes(world))?;
    // An export with the files that other programs need to open it.
    let json = with_classes(&config.to_hf(), &classes).map_err(Error::user)?;
    let mut beside = vec![("config.json", json)];
    beside.extend(preprocessor.map(|images| ("preprocessor_config.json", images.to_hf())));
    run.lora.export(world, &model, hf_name)?;
    run.weights.export_model(world, &model, hf_name, &beside)
}
