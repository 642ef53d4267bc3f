//! Time and memory of a training step on GPUs.
//!
//! A step is forward, backward, clipping by the global norm and AdamW. A world of one rank is compared
//! with plain Burn on one device. Every row is a process of its own, or one for each rank, so that each
//! begins with a fresh GPU:
//!
//! ```text
//! gpu_step --device cuda --json steps.json                 all rows, on one GPU
//! gpu_step --device cuda --nproc 2                          each on two
//! gpu_step --device cuda --model vit_tiny --steps 2         a try
//! ```
//!
//! A step is measured from the end of the one before to the end of the GPU's work; the table has the
//! median and the least, and ratios are of the least, which other programs disturb least. Memory is what Burn's
//! allocator holds of the GPU after the last step, and what the driver reports as used by all processes.
//!
//! Bars, which fail the run: in f32 at world 1 FSDP takes at most 1.03 times as long as plain Burn;
//! at larger worlds FSDP holds less memory than DDP; recomputation holds less than FSDP without. In half
//! precision plain Burn is a model that is half in everything, and sharding keeps parameters, gradients'
//! sums and optimizer in f32, so that ratio compares two different programs and is no bar.

#[path = "../plain/mod.rs"]
mod plain;
mod subject;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{FloatDType, Tensor};
use burn_dist::comm::Order;
use burn_dist::launch::{DeviceKind, Flags, NProc, exit_code};
use burn_dist::{Error, Precision, Result, Strategy, World};
use burn_dist_models::{BertConfig, VitConfig};
use clap::{Parser, ValueEnum};
use plain::{BAR_ALONE, clipped};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use subject::{Subject, images, texts};

const CLIP: f64 = 1.0;
const RATE: f64 = 1e-4;
/// Steps that are not counted: kernels are compiled and tuned in them.
const WARM_UP: usize = 3;

#[derive(Debug, Parser)]
struct Args {
    /// What to compute on: cpu, cuda or wgpu.
    #[arg(long, default_value_t = DeviceKind::Cuda)]
    device: DeviceKind,

    /// Which models; ViT-B/16 and BERT-base without.
    #[arg(long = "model", value_enum)]
    models: Vec<Size>,

    /// Samples of a rank.
    #[arg(long, default_value = "32")]
    batch: NonZeroUsize,

    /// Steps that count.
    #[arg(long, default_value = "10")]
    steps: NonZeroUsize,

    /// Ranks of every row.
    #[arg(long, default_value = "1")]
    nproc: NonZeroUsize,

    /// All ranks on the first GPU, whatever there are.
    #[arg(long)]
    one_gpu: bool,

    /// Types to compute in.
    #[arg(long, default_value = "f32,bf16", value_delimiter = ',')]
    precisions: Vec<Precision>,

    /// The file to write the figures to.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// One row, in this process.
    #[arg(long, hide = true)]
    row: Option<String>,

    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Size {
    VitTiny,
    #[value(name = "vit_b16")]
    VitB16,
    BertTiny,
    BertBase,
}

/// How a model is trained.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// By Burn alone.
    Plain,
    Sharded(Box<Strategy>),
}

/// The results of one row.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    model: String,
    precision: String,
    kind: String,
    ranks: usize,
    /// Seconds of a step: median, least, most.
    step: [f64; 3],
    /// Megabytes that rank 0 holds of its GPU.
    memory: Option<f64>,
    /// Megabytes of that GPU that are used, by any process.
    taken: Option<f64>,
    /// What carries collectives between GPUs.
    collectives: String,
    loss: f64,
}

/// The model in another float type, with leaves of its own.
fn cast<M: Module>(model: M, dtype: FloatDType) -> M {
    struct Cast(FloatDType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|x| Tensor::from_inner(x.inner().cast(self.0)).require_grad())
        }
    }
    model.map(&mut Cast(dtype))
}

/// Trains for some steps.
fn train<S: Subject>(
    subject: &S,
    world: &World,
    kind: &Kind,
    precision: Precision,
    steps: usize,
) -> Result<(Vec<Duration>, f64)> {
    let device = world.device();
    // Sharding draws its parameters from this seed too.
    device.seed(world.seed());
    let plain = subject.init(&device)?;
    let adamw = AdamWConfig::new().init();
    let (mut model, mut optimizer) = match kind {
        Kind::Plain => {
            let model = match precision.param_dtype {
                // In full precision nothing is cast; this only draws the parameters.
                None => cast(plain, FloatDType::F32),
                Some(dtype) => cast(plain, dtype),
            };
            (model, adamw)
        }
        Kind::Sharded(strategy) => {
            let model = strategy.clone().precision(precision).shard(plain, world)?;
            let optimizer = world.optimizer(adamw, &model)?;
            (model, optimizer)
        }
    };
    let (mut times, mut last) = (Vec::new(), 0.0);
    for step in 0..WARM_UP + steps {
        let start = Instant::now();
        let loss = world.run(|| subject.loss(&model))?;
        let seen = loss.clone();
        let gradients = match kind {
            Kind::Plain => {
                let gradients = GradientsParams::from_grads(loss.backward(), &model);
                clipped(gradients, &model, CLIP)
            }
            Kind::Sharded(_) => world.backward(loss, &model)?.clip_norm(CLIP)?.grads,
        };
        model = optimizer.step(RATE, model, gradients);
        device.sync().map_err(Error::user)?;
        if step >= WARM_UP {
            times.push(start.elapsed());
        }
        last = seen.into_data().iter::<f64>().next().unwrap_or(f64::NAN);
    }
    Ok((times, last))
}

/// One row on one rank.
fn row(args: &Args, world: &World, name: &str) -> Result<Row> {
    let (size, precision, kind) = parse(name)?;
    let (batch, steps) = (args.batch.get(), args.steps.get());
    let vit = |config| {
        let subject = images(config, batch, world);
        train(&subject, world, &kind, precision, steps)
    };
    let bert = |config, tokens| {
        let subject = texts(config, tokens, batch, world);
        train(&subject, world, &kind, precision, steps)
    };
    let (mut times, loss) = match size {
        Size::VitTiny => vit(VitConfig::tiny(10)),
        Size::VitB16 => vit(VitConfig::base_16(10)),
        Size::BertTiny => bert(BertConfig::tiny(), 32),
        Size::BertBase => bert(BertConfig::base(), 128),
    }?;
    times.sort();
    let at = |i: usize| times[i].as_secs_f64();
    let usage = world.device().memory_pool_usage();
    let collectives = match world.comm().on_device().map(|device| device.order()) {
        _ if world.size() == 1 => "none",
        None => "through the host",
        Some(Order::Host) => "NCCL, the host waits",
        Some(Order::Device) => "NCCL, the device waits",
    };
    Ok(Row {
        model: name_of(size),
        precision: precision.to_string(),
        kind: name.rsplit('/').next().unwrap_or(name).into(),
        ranks: world.size(),
        step: [at(times.len() / 2), at(0), at(times.len() - 1)],
        memory: usage.map(|usage| usage.bytes_reserved as f64 / 1e6),
        taken: taken().filter(|_| args.device == DeviceKind::Cuda),
        collectives: collectives.into(),
        loss,
    })
}

/// Megabytes of the first GPU that are used, as nvidia-smi reports.
fn taken() -> Option<f64> {
    let mut tool = Command::new("nvidia-smi");
    tool.args([
        "--id=0",
        "--query-gpu=memory.used",
        "--format=csv,noheader,nounits",
    ]);
    let said = tool.output().ok()?.stdout;
    let mebibytes: f64 = String::from_utf8(said).ok()?.trim().parse().ok()?;
    Some(mebibytes * 1.048_576)
}

fn name_of(size: Size) -> String {
    size.to_possible_value()
        .map_or_else(String::new, |v| v.get_name().into())
}

/// A row's name, `model/precision/kind`, as [`rows`] writes it.
fn parse(name: &str) -> Result<(Size, Precision, Kind)> {
    let wrong = || Error::config("--row", "model/precision/kind", name);
    let mut parts = name.splitn(3, '/');
    let mut part = || parts.next().ok_or_else(wrong);
    let size = Size::from_str(part()?, true).map_err(|_| wrong())?;
    let precision = part()?.parse()?;
    let kind = match part()? {
        "plain" => Kind::Plain,
        kind => match kind.strip_suffix("+recompute") {
            Some(strategy) => {
                let strategy = strategy.parse::<Strategy>()?;
                Kind::Sharded(Box::new(strategy.recompute(true)))
            }
            None => Kind::Sharded(Box::new(kind.parse()?)),
        },
    };
    Ok((size, precision, kind))
}

/// All rows: plain Burn and a single device only where there is one rank.
fn rows(args: &Args) -> Vec<String> {
    let models = match args.models.as_slice() {
        [] => &[Size::VitB16, Size::BertBase],
        some => some,
    };
    let kinds: &[&str] = match args.nproc.get() {
        1 => &["plain", "single", "ddp", "fsdp", "fsdp+recompute"],
        _ => &["ddp", "zero2", "fsdp", "fsdp+recompute"],
    };
    let mut rows = Vec::new();
    for size in models {
        for precision in &args.precisions {
            rows.extend(
                kinds
                    .iter()
                    .map(|k| format!("{}/{precision}/{k}", name_of(*size))),
            );
        }
    }
    rows
}

/// Runs a row in a process of its own and reads what it printed.
fn child(args: &Args, name: &str) -> std::result::Result<Row, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(program);
    command.args(["--row", name, "--device", args.device.name()]);
    command.args([
        "--batch",
        &args.batch.to_string(),
        "--steps",
        &args.steps.to_string(),
    ]);
    command.args(["--nproc", &args.nproc.to_string()]);
    if args.one_gpu {
        command.arg("--one-gpu");
    }
    let output = command.output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = |line: &str| serde_json::from_str(&line[line.find('{')?..]).ok();
    match text.lines().find_map(found) {
        Some(row) if output.status.success() => Ok(row),
        _ => {
            let why = String::from_utf8_lossy(&output.stderr);
            let tail: Vec<_> = why.lines().rev().take(6).collect();
            Err(tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
        }
    }
}

fn table(args: &Args) -> ExitCode {
    println!(
        "{:10} {:9} {:16} {:>5} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}  collectives",
        "model",
        "precision",
        "kind",
        "ranks",
        "step ms",
        "least ms",
        "/ plain",
        "MB",
        "taken",
        "loss"
    );
    let (mut done, mut code) = (Vec::<Row>::new(), ExitCode::SUCCESS);
    let mut fails = |why: String| {
        eprintln!("{why}");
        code = ExitCode::FAILURE;
    };
    for name in rows(args) {
        let row = match child(args, &name) {
            Ok(row) => row,
            Err(why) => {
                fails(format!("{name} failed:\n{why}"));
                continue;
            }
        };
        let other = |kind: &str| {
            let same = |r: &&Row| r.model == row.model && r.precision == row.precision;
            done.iter().filter(same).find(|r| r.kind == kind)
        };
        let ratio = other("plain").map(|plain| row.step[1] / plain.step[1]);
        let number = |x: Option<f64>, digits| x.map_or("-".into(), |x| format!("{x:.digits$}"));
        println!(
            "{:10} {:9} {:16} {:>5} {:>9.2} {:>9.2} {:>8} {:>8} {:>8} {:>8.4}  {}",
            row.model,
            row.precision,
            row.kind,
            row.ranks,
            row.step[0] * 1e3,
            row.step[1] * 1e3,
            number(ratio, 3),
            number(row.memory, 0),
            number(row.taken, 0),
            row.loss,
            row.collectives
        );
        if args.device == DeviceKind::Cuda {
            if row.kind == "fsdp" && row.precision == "f32" && ratio > Some(BAR_ALONE) {
                fails(format!("{name}: more than {BAR_ALONE} times plain Burn"));
            }
            let more = match row.kind.as_str() {
                "fsdp" if row.ranks > 1 => other("ddp"),
                "fsdp+recompute" => other("fsdp"),
                _ => None,
            };
            if let Some(more) = more.filter(|more| row.memory >= more.memory) {
                fails(format!("{name}: not less memory than {}", more.kind));
            }
        }
        done.push(row);
        // After every row, so that an interrupted run leaves the rows before.
        let written = args.json.as_ref().map(|path| {
            let text = serde_json::to_string_pretty(&done).unwrap_or_default();
            std::fs::write(path, text).map_err(|e| format!("error: {}: {e}", path.display()))
        });
        if let Some(Err(why)) = written {
            fails(why);
        }
    }
    code
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(name) = &args.row else {
        return match args.device.device(0) {
            Ok(_) => table(&args),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    };
    let ran = (|| {
        // In the processes that this starts, the environment has the rank.
        let flags = Flags {
            nproc_per_node: Some(args.nproc.get()).filter(|n| *n > 1).map(NProc::Count),
            ..Flags::default()
        };
        let launch = burn_dist::launch(&flags);
        let launch = if args.one_gpu {
            launch.device(args.device.device(0)?)
        } else {
            launch.device(args.device)
        };
        launch.run(|world| {
            let row = row(&args, &world, name)?;
            if world.is_chief() {
                println!("{}", serde_json::to_string(&row).unwrap_or_default());
            }
            Ok(())
        })
    })();
    if let Err(error) = &ran {
        eprintln!("error: {error}");
    }
    ExitCode::from(exit_code(&ran))
}
