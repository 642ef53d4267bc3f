//! What recording a run costs, beside the same steps unrecorded.
//!
//! Two ranks of one thread each train a Vision Transformer of 2.7 M parameters under FSDP. Steps that are only measured, recorded in
//! a folder, and traced as well are taken in turn with plain ones, so that other load on the machine affects all equally.

#[path = "step_subject/mod.rs"]
mod subject;

use burn::optim::ModuleOptimizer;
use burn_dist::launch::Threads;
use burn_dist::optim::AdamWConfig;
use burn_dist::telemetry::{Phase, TraceKind, Tracer};
use burn_dist::{Result, Strategy, World};
use burn_dist_log::{Run, RunLog, Step};
use burn_dist_models::Vit;
use mimalloc::MiMalloc;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;
use subject::{BATCH, Subject};

#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

const RANKS: usize = 2;
/// Steps of each kind.
const ROUNDS: usize = 60;
/// The share of a step that records may take.
const BAR: f64 = 0.01;
/// Spans of a step of this model, at most: units, collectives and waits.
const SPANS: f64 = 100.0;

/// One rank's training.
struct Training<'a> {
    world: &'a World,
    model: Option<Vit>,
    optimizer: ModuleOptimizer,
    batch: <Vit as Subject>::Batch,
}

impl<'a> Training<'a> {
    fn new(world: &'a World) -> Result<Self> {
        let model = Strategy::fsdp().shard(Vit::new(&world.device()), world)?;
        let optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
        Ok(Self {
            world,
            model: Some(model),
            optimizer,
            batch: Vit::batch(world.rank(), &world.device()),
        })
    }

    /// A step without records; ranks begin the next one together, as a recorded step makes them.
    fn plain(&mut self) -> Result<()> {
        let model = self.model.take().unwrap();
        let loss = model.loss(self.batch.clone());
        black_box(loss.clone().into_scalar::<f32>());
        let gradients = self.world.backward(loss, &model)?.clip_norm(1.0)?;
        self.model = Some(self.optimizer.step(1e-3, model, gradients.grads));
        self.world.comm().barrier(&"step".into())
    }

    fn recorded(&mut self, log: &mut RunLog) -> Result<()> {
        let model = self.model.take().unwrap();
        let (loss, value) = log.time(Phase::Forward, || {
            let loss = model.loss(self.batch.clone());
            let value = loss.clone().into_scalar::<f32>();
            (loss, value)
        });
        let gradients = log.time(Phase::Backward, || self.world.backward(loss, &model))?;
        let (model, norm) = log.time(Phase::Optimizer, || {
            let clipped = gradients.clip_norm(1.0)?;
            let model = self.optimizer.step(1e-3, model, clipped.grads);
            Ok::<_, burn_dist::Error>((model, clipped.norm))
        })?;
        self.model = Some(model);
        log.step(Step {
            loss_sum: BATCH as f64 * f64::from(value),
            samples: BATCH,
            rate: 1e-3,
            norm: Some(norm),
            ..Step::default()
        })?;
        Ok(())
    }
}

/// The seconds of each kind of step, in turn, on rank 0.
fn measured(world: &World, folder: &std::path::Path) -> Result<[Vec<f64>; 4]> {
    let run = || Run::new("vit-cifar", "fsdp");
    let mut training = Training::new(world)?;
    let mut logs = [
        RunLog::unwritten(world, run())?,
        RunLog::create(world, folder.join("recorded"), run())?,
        RunLog::create(world, folder.join("traced"), run())?,
    ];
    // Its last step is never reached, so that none of them brings the spans together.
    logs[2].trace(1..u64::MAX);
    for _ in 0..3 {
        training.plain()?;
    }
    let mut seconds: [Vec<f64>; 4] = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..4 {
            let kind = (turn + round) % 4;
            if kind != 3 {
                world.tracer().stop();
            } else {
                world.tracer().start();
            }
            let start = Instant::now();
            match kind {
                0 => training.plain()?,
                _ => training.recorded(&mut logs[kind - 1])?,
            }
            seconds[kind].push(start.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let folder = tempfile::tempdir().unwrap();
    let ranks = Threads::new(RANKS).run(|world| {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        one.unwrap().install(|| measured(&world, folder.path()))
    });
    let [plain, others @ ..] = ranks.unwrap().remove(0);
    let ms = 1e3 * median(plain.clone());
    println!("{:<24} {ms:>9.3} ms a step", "no records");
    let mut is_over = false;
    for (name, seconds) in ["measured", "recorded", "recorded and traced"]
        .iter()
        .zip(others)
    {
        let ratios = plain
            .iter()
            .zip(&seconds)
            .map(|(plain, other)| other / plain);
        let ratio = median(ratios.collect());
        println!(
            "{name:<24} {:>9.3} ms a step, {ratio:.3} of it",
            1e3 * median(seconds)
        );
        is_over |= *name == "recorded" && ratio > 1.0 + BAR;
    }
    // A span that nobody records: the share of a step that a hundred of them take.
    let tracer = Tracer::default();
    let (start, times) = (Instant::now(), 10_000_000);
    for _ in 0..times {
        drop(black_box(tracer.span(TraceKind::Wait, String::new)));
    }
    let ns = start.elapsed().as_secs_f64() * 1e9 / f64::from(times);
    let share = SPANS * ns / (1e6 * ms);
    println!(
        "{:<24} {ns:>9.2} ns, {share:.7} of a step for {SPANS} of them",
        "a span, not recorded"
    );
    if is_over || share > BAR / 100.0 {
        println!("above the bar: records {BAR} of a step, spans that are off a hundredth of that");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
