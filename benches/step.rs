//! Time of a training step under each strategy.
//!
//! A step is forward, backward, clipping and AdamW, of a Vision Transformer of 2.7 M
//! parameters on 32 images a rank. Every rank computes with one thread, so that worlds of different
//! sizes compare; a world needs as many cores as it has ranks.
//!
//! Two figures are bars. Ranks in one process do not wait for a network, so FSDP may cost little
//! more than DDP; and a single rank communicates nothing, so sharding may cost hardly more than
//! plain Burn. Steps of both are measured in turn, so that other load on the machine affects both equally.

#[path = "plain/mod.rs"]
mod plain;

use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::launch::Threads;
use burn_dist::optim::AdamWConfig;
use burn_dist::{Precision, Result, Strategy, World};
use burn_dist_models::loss::cross_entropy;
use burn_dist_models::{Vit, VitConfig};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use mimalloc::MiMalloc;
use plain::{BAR_ALONE, clipped};
use std::fmt;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// As in the examples: the system's allocator is slow at allocating and freeing large tensors.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

/// Images of a rank.
const BATCH: usize = 32;
const CLIP: f64 = 1.0;
const RATE: f64 = 1e-3;
/// Steps of each kind that a comparison takes, over all ranks: one rank alone has the tighter bar.
const ROUNDS: usize = 33;
/// FSDP may take this many times as long as DDP, at world 2.
const BAR_FSDP: f64 = 1.15;

/// Steps between two comparisons of replicas, unless a strategy says otherwise.
const CHECK_EVERY: f64 = 100.0;
/// The share of the steps' time that comparing replicas may take.
const BAR_CHECK: f64 = 0.01;

/// How a model is trained.
#[derive(Debug, Clone)]
enum Kind {
    /// By Burn alone.
    Plain,
    Sharded(Strategy),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.pad("plain Burn"),
            Self::Sharded(strategy) => f.pad(&strategy.to_string()),
        }
    }
}

/// One rank's training run.
struct Run<'a> {
    kind: Kind,
    world: &'a World,
    /// Empty only while the optimizer steps it.
    model: Option<Vit>,
    optimizer: ModuleOptimizer,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

impl<'a> Run<'a> {
    fn new(kind: Kind, world: &'a World) -> Result<Self> {
        let device = world.device();
        let model = VitConfig::cifar(10).init(&device).unwrap();
        let optimizer = AdamWConfig::new().init();
        let (model, optimizer) = match kind.clone() {
            Kind::Plain => (model, optimizer),
            Kind::Sharded(strategy) => {
                let model = strategy.shard(model, world)?;
                let optimizer = world.optimizer(optimizer, &model)?;
                (model, optimizer)
            }
        };
        let (images, labels) = batch(world.rank(), &device);
        Ok(Self {
            kind,
            world,
            model: Some(model),
            optimizer,
            images,
            labels,
        })
    }

    fn step(&mut self) -> Result<()> {
        let model = self.model.take().unwrap();
        let loss = cross_entropy(model.forward(self.images.clone()), self.labels.clone());
        let gradients = match self.kind {
            Kind::Plain => {
                let gradients = GradientsParams::from_grads(loss.backward(), &model);
                clipped(gradients, &model, CLIP)
            }
            Kind::Sharded(_) => self.world.backward(loss, &model)?.clip_norm(CLIP)?.grads,
        };
        self.model = Some(self.optimizer.step(RATE, model, gradients));
        Ok(())
    }

    /// The time of so many steps, until the last rank is done.
    fn time(&mut self, steps: u64) -> Result<Duration> {
        let meet = || self.world.comm().barrier(&"bench".into());
        meet()?;
        let start = Instant::now();
        for _ in 0..steps {
            self.step()?;
        }
        self.world.comm().barrier(&"bench".into())?;
        Ok(start.elapsed())
    }
}

/// Images and labels that differ by rank; what they show does not matter here.
fn batch(rank: usize, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let shape = [BATCH, 3, 32, 32];
    let pixel = |i: usize| ((i * 37 + rank * 11) % 255) as f32 / 127.5 - 1.0;
    let pixels: Vec<f32> = (0..shape.iter().product()).map(pixel).collect();
    let labels: Vec<i64> = (0..BATCH as i64).map(|i| i % 10).collect();
    (
        Tensor::from_data(TensorData::new(pixels, shape), device),
        Tensor::from_data(TensorData::new(labels, [BATCH]), device),
    )
}

/// Runs `f` on every rank of a new world, each with a single thread to compute on.
fn on_ranks<T: Send>(size: usize, f: impl Fn(&World) -> Result<T> + Sync) -> Vec<T> {
    let single = |world: World| {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        one.unwrap().install(|| f(&world))
    };
    Threads::new(size).run(single).unwrap()
}

/// Every strategy where ranks communicate, and two strategies for a single rank.
fn strategies(size: usize) -> Vec<Strategy> {
    match size {
        1 => vec![Strategy::ddp(), Strategy::fsdp()],
        _ => vec![
            Strategy::ddp(),
            Strategy::zero1(),
            Strategy::zero2(),
            Strategy::fsdp(),
        ],
    }
}

/// Runs as many steps as rank 0 is asked for, repeatedly, until there is no further request.
fn serve(
    world: &World,
    strategy: &Strategy,
    asked: &Mutex<mpsc::Receiver<u64>>,
    answer: &mpsc::Sender<Duration>,
) -> Result<()> {
    let mut run = Run::new(Kind::Sharded(strategy.clone()), world)?;
    loop {
        let mut steps = [0];
        if world.is_chief() {
            steps[0] = asked.lock().unwrap().recv().unwrap_or(0);
        }
        let all = SpanMut::of(&mut steps);
        world.comm().all_reduce(&"steps".into(), Reduce::Sum, all)?;
        let time = match steps[0] {
            0 => return Ok(()),
            steps => run.time(steps)?,
        };
        if world.is_chief() {
            answer.send(time).unwrap();
        }
    }
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    group.sampling_mode(SamplingMode::Flat);
    for size in [1, 2] {
        group.throughput(Throughput::Elements((size * BATCH) as u64));
        for strategy in strategies(size) {
            let id = BenchmarkId::new(strategy.to_string(), format!("world {size}"));
            let (ask, asked) = mpsc::channel();
            let (answer, answered) = mpsc::channel();
            std::thread::scope(|scope| {
                // The ranks outlive a measurement, or each would begin with making a model.
                let asked = Mutex::new(asked);
                scope.spawn(move || {
                    on_ranks(size, |world| serve(world, &strategy, &asked, &answer));
                });
                group.bench_function(id, |b| {
                    b.iter_custom(|steps| {
                        ask.send(steps).unwrap();
                        answered.recv().unwrap()
                    });
                });
                drop(ask);
            });
        }
    }
    group.finish();
}

/// The times of some kinds of training, which take single steps in turn: a row per kind, all of
/// them equally long.
fn in_turn(size: usize, kinds: &[Kind]) -> Vec<Vec<Duration>> {
    let ranks = on_ranks(size, |world| {
        let mut runs = Vec::new();
        for kind in kinds {
            runs.push(Run::new(kind.clone(), world)?);
        }
        // First steps make the optimizer's states.
        for run in &mut runs {
            run.time(1)?;
        }
        let mut times = vec![Vec::new(); runs.len()];
        for round in 0..ROUNDS / size {
            for turn in 0..runs.len() {
                // The order rotates, so that no strategy always finds the caches of the same one.
                let at = (turn + round) % runs.len();
                times[at].push(runs[at].time(1)?);
            }
        }
        Ok(times)
    });
    ranks.into_iter().next().unwrap()
}

fn least(times: &[Duration]) -> f64 {
    times.iter().min().unwrap().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a row per kind; ratios are to the first. Returns the last kind's ratio of least times:
/// other load on the machine only adds.
fn table(size: usize, kinds: &[Kind]) -> f64 {
    let times = in_turn(size, kinds);
    let seconds = |times: &[Duration]| times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>();
    let mut last = f64::NAN;
    for (kind, times_of) in kinds.iter().zip(&times) {
        let best = least(times_of);
        last = best / least(&times[0]);
        let pairs = times_of.iter().zip(&times[0]);
        let paired = pairs.map(|(a, b)| a.as_secs_f64() / b.as_secs_f64());
        println!(
            "{kind:<18} {size:>5} {:>10.1} {:>10.1} {:>10.1} {last:>8.3} {:>8.3}",
            1e3 * best,
            1e3 * median(seconds(times_of)),
            (size * BATCH) as f64 / best,
            median(paired.collect()),
        );
    }
    last
}

/// What a comparison of replicas costs under ddp, as a share of the steps it is made for: the least
/// of several.
fn check(size: usize) -> f64 {
    let ranks = on_ranks(size, |world| {
        let mut run = Run::new(Kind::Sharded(Strategy::ddp()), world)?;
        run.time(1)?;
        let (mut steps, mut checks) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS / size {
            steps.push(run.time(1)?);
            world.comm().barrier(&"bench".into())?;
            let start = Instant::now();
            world.check_replicas(run.model.as_ref().unwrap())?;
            checks.push(start.elapsed());
        }
        Ok(least(&checks) / (CHECK_EVERY * least(&steps)))
    });
    ranks.into_iter().next().unwrap()
}

/// Times of the strategies, and the bars.
fn compare(_: &mut Criterion) {
    // Criterion's test mode runs everything once; this takes a minute.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    println!(
        "{:<18} {:>5} {:>10} {:>10} {:>10} {:>8} {:>8}",
        "strategy", "world", "ms/step", "median ms", "samples/s", "ratio", "median"
    );
    let sharded = |strategies: Vec<Strategy>| strategies.into_iter().map(Kind::Sharded);
    let mut alone = vec![Kind::Plain];
    alone.extend(sharded(strategies(1)));
    let alone = table(1, &alone);
    let together = table(2, &sharded(strategies(2)).collect::<Vec<_>>());
    // What the options of a strategy cost on this device; no bar, for the CPU has no half precision.
    let options = vec![
        Strategy::fsdp(),
        Strategy::fsdp().precision(Precision::bf16()),
        Strategy::fsdp().recompute(true),
    ];
    let again = table(2, &sharded(options).collect::<Vec<_>>());
    println!("fsdp recomputed over fsdp, world 2: {again:.3}");
    println!("fsdp over plain Burn, world 1: {alone:.3} (bar: {BAR_ALONE})");
    println!("fsdp over ddp, world 2: {together:.3} (bar: {BAR_FSDP})");
    let check = check(2);
    println!("comparing replicas under ddp, world 2: {check:.5} of the steps (bar: {BAR_CHECK})");
    assert!(check <= BAR_CHECK, "comparing replicas costs {check:.4}");
    assert!(
        alone <= BAR_ALONE,
        "sharding costs {alone:.3} of plain Burn"
    );
    assert!(together <= BAR_FSDP, "fsdp costs {together:.3} of ddp");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(10));
    targets = steps, compare
}
criterion_main!(benches);
