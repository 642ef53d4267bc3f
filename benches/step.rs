//! Time of a training step under each strategy.
//!
//! A step is forward, backward, clipping and AdamW, of a Vision Transformer of 2.7 M parameters on 32 images a
//! rank, and of BERT-tiny on 32 texts of 128 tokens. Every rank computes with one thread, so that worlds of different
//! sizes compare; a world needs as many cores as it has ranks.
//!
//! Two figures are bars. Ranks in one process do not wait for a network, so FSDP may cost little
//! more than DDP; and a single rank communicates nothing, so sharding may cost hardly more than
//! plain Burn. Steps of both are measured in turn, so that other load on the machine affects both equally.
//!
//! `-- muon` measures alone what a step of the ViT's matrices by Muon costs beside AdamW's.

#[path = "plain/mod.rs"]
mod plain;
#[path = "step_subject/mod.rs"]
mod subject;

use burn::optim::{AdjustLrFn, GradientsParams, ModuleOptimizer, MuonConfig};
use burn::tensor::Tensor;
use burn_dist::launch::Threads;
use burn_dist::optim::{AdamWConfig, Groups};
use burn_dist::{Precision, Result, Stepper, Strategy, World};
use burn_dist_models::{BertClassifier, Vit, VitConfig};
use mimalloc::MiMalloc;
use plain::{BAR_ALONE, clipped};
use std::fmt;
use std::time::{Duration, Instant};
use subject::{BATCH, Subject};

/// As in the examples: the system's allocator is slow at allocating and freeing large tensors.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

const CLIP: f64 = 1.0;
const RATE: f64 = 1e-3;
/// Steps of each kind that a comparison takes, over all ranks: one rank alone has the tighter bar.
const ROUNDS: usize = 33;
/// FSDP may take this many times as long as DDP, at world 2.
const BAR_FSDP: f64 = 1.03;
/// The share of a ViT's step that its products take at least: all else is overhead.
const BAR_PRODUCTS: f64 = 0.7;

/// A step by Muon may take this many times as long as one by AdamW, of as many images as two ranks have.
const BAR_MUON: f64 = 1.3;

/// Steps between two comparisons of replicas, unless a strategy says otherwise.
const CHECK_EVERY: f64 = 100.0;
/// The share of the steps' time that comparing replicas may take.
const BAR_CHECK: f64 = 0.01;

/// How a model is trained.
#[derive(Debug, Clone)]
enum Kind {
    /// By Burn alone.
    Plain,
    Sharded(Box<Strategy>),
    /// The matrices of the blocks by Muon, which their owners step whole.
    Muon(Box<Strategy>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.pad("plain Burn"),
            Self::Sharded(strategy) => f.pad(&strategy.to_string()),
            Self::Muon(strategy) => f.pad(&format!("{strategy}, muon")),
        }
    }
}

/// One rank's training run.
struct Run<'a, M: Subject> {
    kind: Kind,
    world: &'a World,
    /// Backward passes of a step, of shards.
    passes: usize,
    /// Empty only while the optimizer steps it.
    model: Option<M>,
    optimizer: ModuleOptimizer,
    /// In place of the optimizer, if one is needed.
    stepper: Option<Stepper>,
    batch: M::Batch,
}

/// What a step took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    time: Duration,
    /// Minor page faults of a rank, on average.
    faults: f64,
}

/// Minor page faults of this process so far.
fn faults() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The tenth field; the second is a name in brackets, with any characters.
    let rest = text.rsplit(')').next().unwrap_or_default();
    let field = rest.split_whitespace().nth(7);
    field.and_then(|field| field.parse().ok()).unwrap_or(0)
}

impl<'a, M: Subject> Run<'a, M> {
    fn new(kind: Kind, world: &'a World, passes: usize) -> Result<Self> {
        let device = world.device();
        let model = M::new(&device);
        let optimizer = AdamWConfig::new().init();
        let (model, optimizer, stepper) = match kind.clone() {
            Kind::Plain => (model, optimizer, None),
            Kind::Sharded(strategy) => {
                let model = strategy.shard(model, world)?;
                let optimizer = world.optimizer(optimizer, &model)?;
                (model, optimizer, None)
            }
            Kind::Muon(strategy) => {
                let model = strategy.shard(model, world)?;
                let stepper = world.stepper(muon(&model)?, &model)?;
                (model, optimizer, Some(stepper))
            }
        };
        Ok(Self {
            kind,
            world,
            passes,
            model: Some(model),
            optimizer,
            stepper,
            batch: M::batch(world.rank(), &device),
        })
    }

    fn step(&mut self) -> Result<()> {
        let model = self.model.take().unwrap();
        let loss = || model.loss(self.batch.clone());
        let gradients = match self.kind {
            Kind::Plain => {
                let loss = loss();
                let gradients = GradientsParams::from_grads(loss.backward(), &model);
                clipped(gradients, &model, CLIP)
            }
            _ => {
                let mut gradients = self.world.accumulate(&model)?.micro_batches(self.passes);
                for _ in 0..self.passes {
                    gradients.add(loss())?;
                }
                gradients.finish()?.clip_norm(CLIP)?.grads
            }
        };
        self.model = Some(match &mut self.stepper {
            Some(stepper) => stepper.step(RATE, model, gradients)?,
            None => self.optimizer.step(RATE, model, gradients),
        });
        Ok(())
    }

    /// The time of so many steps, until the last rank is done.
    fn time(&mut self, steps: u64) -> Result<Duration> {
        Ok(self.take(steps)?.time)
    }

    /// So many steps together, until the last rank is done.
    fn take(&mut self, steps: u64) -> Result<Taken> {
        self.world.comm().barrier(&"bench".into())?;
        let (start, before) = (Instant::now(), faults());
        for _ in 0..steps {
            self.step()?;
        }
        self.world.comm().barrier(&"bench".into())?;
        Ok(Taken {
            time: start.elapsed(),
            faults: (faults() - before) as f64 / self.world.size() as f64,
        })
    }
}

/// Muon for the matrices of the blocks, AdamW for the rest, as the examples have it.
fn muon<M: Subject>(model: &M) -> Result<ModuleOptimizer> {
    let groups = Groups::of(model)?;
    let hidden = groups.filter(|p| p.shape().len() == 2 && p.lies_in("blocks.*"));
    let muon = MuonConfig::new().with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW);
    let rest = AdamWConfig::new().init();
    Ok(rest.with_group(hidden, muon.build(), None))
}

/// What a step of the ViT by Muon takes, over one by AdamW, at so many ranks and backward passes.
fn muon_over_adamw(size: usize, passes: usize) -> f64 {
    let fsdp = || Box::new(Strategy::fsdp());
    let kinds = [Kind::Sharded(fsdp()), Kind::Muon(fsdp())];
    table_of_passes::<Vit>("vit", (size, passes), &kinds)
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

/// What single steps of some kinds of training took, in turn: a row per kind, all of them equally long.
fn in_turn<M: Subject>(size: usize, passes: usize, kinds: &[Kind]) -> Vec<Vec<Taken>> {
    let ranks = on_ranks(size, |world| {
        let mut runs = Vec::new();
        for kind in kinds {
            runs.push(Run::<M>::new(kind.clone(), world, passes)?);
        }
        // First steps make the optimizer's states, and fill the allocator's lists.
        for run in &mut runs {
            run.take(3)?;
        }
        let mut taken = vec![Vec::new(); runs.len()];
        for round in 0..ROUNDS / size / passes {
            for turn in 0..runs.len() {
                // The order changes, as each may find data in a cache that the one before it used.
                let at = (turn + round) % runs.len();
                taken[at].push(runs[at].take(1)?);
            }
        }
        Ok(taken)
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

/// Prints a row per kind; ratios are to the first. Returns the last kind's: the median of pairs, unless the middle
/// half of them is wider than a bar can be; then the ratio of least times, as other load only adds.
fn table<M: Subject>(name: &str, size: usize, kinds: &[Kind]) -> f64 {
    table_of_passes::<M>(name, (size, 1), kinds)
}

/// The same of steps of so many backward passes.
fn table_of_passes<M: Subject>(name: &str, (size, passes): (usize, usize), kinds: &[Kind]) -> f64 {
    let taken = in_turn::<M>(size, passes, kinds);
    let seconds =
        |taken: &[Taken]| -> Vec<f64> { taken.iter().map(|t| t.time.as_secs_f64()).collect() };
    let fastest = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let first = seconds(&taken[0]);
    let mut last = f64::NAN;
    for (kind, taken) in kinds.iter().zip(&taken) {
        let seconds = seconds(taken);
        let best = fastest(&seconds);
        let pairs = seconds.iter().zip(&first);
        let mut paired: Vec<f64> = pairs.map(|(a, b)| a / b).collect();
        paired.sort_by(f64::total_cmp);
        let (low, high) = (paired[paired.len() / 4], paired[paired.len() * 3 / 4]);
        let ratio = best / fastest(&first);
        let middle = median(paired);
        last = if high - low < 0.05 { middle } else { ratio };
        println!(
            "{name:<5} {kind:<16} {size:>5} {:>9.1} {:>9.1} {:>9.1} {ratio:>7.3} {middle:>7.3} {low:.3}-{high:.3} {:>7.0}",
            1e3 * best,
            1e3 * median(seconds),
            (size * passes * BATCH) as f64 / best,
            median(taken.iter().map(|t| t.faults).collect()),
        );
    }
    last
}

/// The time that the products of a ViT's linear layers take by themselves, as a share of a step.
fn matrix_products() -> f64 {
    let share = |world: &World| {
        let device = world.device().inner();
        let config = VitConfig::cifar(10);
        let rows = BATCH * (1 + (config.image_size / config.patch_size).pow(2));
        let (width, hidden) = (config.width, config.mlp_width);
        let layers = [[width, width]; 4].into_iter();
        let layers = layers.chain([[width, hidden], [hidden, width]]);
        let layers: Vec<_> = layers
            .map(|[inputs, outputs]| {
                let shapes = [[rows, inputs], [inputs, outputs], [rows, outputs]];
                shapes.map(|shape| Tensor::<2>::ones(shape, &device))
            })
            .collect();
        let products = || {
            let start = Instant::now();
            for _ in 0..config.blocks {
                for [x, weight, gradient] in &layers {
                    let _ = x.clone().matmul(weight.clone());
                    let _ = gradient.clone().matmul(weight.clone().transpose());
                    let _ = x.clone().transpose().matmul(gradient.clone());
                }
            }
            start.elapsed()
        };
        let mut run = Run::<Vit>::new(Kind::Plain, world, 1)?;
        run.take(2)?;
        let (mut steps, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            steps.push(run.time(1)?);
            alone.push(products());
        }
        Ok(least(&alone) / least(&steps))
    };
    on_ranks(1, share)[0]
}

/// What a comparison of replicas costs under ddp, as a share of the steps it is made for: the least
/// of several.
fn check(size: usize) -> f64 {
    let ranks = on_ranks(size, |world| {
        let mut run = Run::<Vit>::new(Kind::Sharded(Box::new(Strategy::ddp())), world, 1)?;
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

fn main() {
    // Tests run every bench once; this takes a minute.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    println!(
        "{:<5} {:<16} {:>5} {:>9} {:>9} {:>9} {:>7} {:>7} {:>11} {:>7}",
        "model",
        "strategy",
        "world",
        "ms/step",
        "median",
        "samples/s",
        "least",
        "median",
        "half within",
        "faults"
    );
    let sharded =
        |strategies: Vec<Strategy>| strategies.into_iter().map(|s| Kind::Sharded(Box::new(s)));
    let muon = [(1, 1), (1, 2), (2, 1)].map(|(size, passes)| muon_over_adamw(size, passes));
    println!(
        "ViT: muon over adamw, world 1 with {BATCH} and {} images a step, world 2 with {}: {muon:.3?} (bar of the last two: {BAR_MUON})",
        2 * BATCH,
        2 * BATCH
    );
    if std::env::args().any(|arg| arg == "muon") {
        return;
    }
    let mut alone = vec![Kind::Plain];
    alone.extend(sharded(strategies(1)));
    let together: Vec<Kind> = sharded(strategies(2)).collect();
    let vit = [(1, &alone), (2, &together)];
    let vit = vit.map(|(size, kinds)| table::<Vit>("vit", size, kinds));
    let bert = [(1, &alone), (2, &together)];
    let bert = bert.map(|(size, kinds)| table::<BertClassifier>("bert", size, kinds));
    // What the options of a strategy cost on this device; no bar, for the CPU has no half precision.
    let options = vec![
        Strategy::fsdp(),
        Strategy::fsdp().precision(Precision::bf16()),
        Strategy::fsdp().recompute(true),
    ];
    let again = table::<Vit>("vit", 2, &sharded(options).collect::<Vec<_>>());
    println!("fsdp recomputed over fsdp, world 2: {again:.3}");
    let products = matrix_products();
    println!("products of linear layers in a ViT's step: {products:.3} (bar: {BAR_PRODUCTS})");
    let check = check(2);
    println!("comparing replicas under ddp, world 2: {check:.5} of the steps (bar: {BAR_CHECK})");
    assert!(check <= BAR_CHECK, "comparing replicas costs {check:.4}");
    for (name, [alone, together]) in [("ViT", vit), ("BERT", bert)] {
        println!("{name}: fsdp over plain Burn, world 1: {alone:.3} (bar: {BAR_ALONE})");
        println!("{name}: fsdp over ddp, world 2: {together:.3} (bar: {BAR_FSDP})");
        assert!(alone <= BAR_ALONE, "{name}: {alone:.3} of plain Burn");
        assert!(together <= BAR_FSDP, "{name}: {together:.3} of ddp");
    }
    for muon in &muon[1..] {
        assert!(*muon <= BAR_MUON, "muon: {muon:.3} of adamw");
    }
    assert!(products >= BAR_PRODUCTS, "products are {products:.3}");
}
