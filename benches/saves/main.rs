//! Saving and loading of two processes, beside PyTorch's `torch.distributed.checkpoint` where PyTorch is installed.
//!
//! ```sh
//! cargo bench --bench saves
//! BURN_DIST_PYTHON=venv/bin/python cargo bench --bench saves    # a Python with torch, numpy
//! ```
//!
//! After `--`, `--dir DIR` names the disk to save to, `--blocks N` the size of the model: N linear layers of 1536 to 1536 f32
//! values (36 give 85 million parameters, with AdamW's states 1.02 GB), and `--rounds N` how often both
//! take turns. Both sides sync all files to disk; ours verifies checksums, PyTorch's has none. Times are those of the
//! slower rank, after a barrier. `stall` is what a save in the background costs training: how long the call
//! takes, and the bench fails if that is more than a tenth of a save; `slower steps` is what the steps after it take more
//! than others until it is written, on processors that the ranks share with the writing. The files of a load are in the
//! system's cache, and both sides have the system's allocator.

#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Device, Distribution, Tensor};
use burn_dist::checkpoint::{Save, Which};
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::launch::{Flags, Node, Program, supervise};
use burn_dist::optim::AdamWConfig;
use burn_dist::{Error, Strategy, World, unit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

/// The task of a process that is a rank of ours.
const TASK: &str = "BURN_DIST_BENCH_TASK";
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/saves/dcp.py");
const RANKS: usize = 2;
const WIDTH: usize = 1536;

/// The most that a save in the background may stall training for, of the time of a save that is waited for.
const MOST_STALL: f64 = 0.1;

type Result<T> = std::result::Result<T, Box<dyn StdError>>;

/// Seconds by what was timed.
type Times = BTreeMap<String, f64>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    blocks: usize,
    folder: PathBuf,
    out: PathBuf,
}

fn main() -> Result<()> {
    if let Ok(task) = std::env::var(TASK) {
        return Ok(ours(&serde_json::from_str(&task)?)?);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo's flag: without it, as under `cargo test`, nothing is timed.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let number = |name: &str, default: usize| value(name).map_or(Ok(default), |text| text.parse());
    let (blocks, rounds) = (number("--blocks", 36)?, number("--rounds", 5)?);
    let disk = value("--dir").map_or_else(std::env::temp_dir, PathBuf::from);
    let python = std::env::var_os("BURN_DIST_PYTHON").map(PathBuf::from);
    let mut sides = vec!["ours"];
    match &python {
        Some(_) => sides.push("DCP"),
        None => println!("ours alone: BURN_DIST_PYTHON names no Python with PyTorch"),
    }
    let mut found: BTreeMap<(&str, String), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for side in &sides {
            let folder = tempfile::tempdir_in(&disk)?;
            let task = Task {
                blocks,
                folder: folder.path().join("saves"),
                out: folder.path().join("times.json"),
            };
            match python.as_deref().filter(|_| *side == "DCP") {
                Some(python) => theirs(python, &task)?,
                None => start(&task)?,
            }
            let times: Times = serde_json::from_slice(&std::fs::read(&task.out)?)?;
            for (what, seconds) in times {
                found.entry((side, what)).or_default().push(seconds);
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    report(&found);
    let ours = |what: &str| {
        found
            .get(&("ours", what.to_string()))
            .map(|times| median(times))
    };
    match (ours("stall"), ours("save")) {
        (Some(stall), Some(save)) if stall <= MOST_STALL * save => Ok(()),
        (stall, save) => {
            let most = MOST_STALL * 100.0;
            let message = format!(
                "a save in the background stalls training for {stall:?} s: at most {most} % of a save, {save:?} s"
            );
            Err(message.into())
        }
    }
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Prints minimum, median and maximum of each.
fn report(found: &BTreeMap<(&str, String), Vec<f64>>) {
    println!(
        "{:6} {:12} {:>9} {:>9} {:>9}",
        "", "", "min", "median", "max"
    );
    for ((side, what), times) in found {
        let mut times = times.clone();
        times.sort_by(f64::total_cmp);
        let (least, most) = (times[0], times[times.len() - 1]);
        let median = median(&times);
        println!("{side:6} {what:12} {least:9.3} {median:9.3} {most:9.3}");
    }
}

/// Two processes of this program.
fn start(task: &Task) -> Result<()> {
    let node = Node {
        nodes: 1,
        node_rank: 0,
        ranks: RANKS,
        master_addr: "127.0.0.1".into(),
        master_port: 0,
        max_restarts: 0,
        log_dir: None,
        elastic: None,
    };
    let mut program = Program::new(std::env::current_exe()?);
    program.env = vec![(TASK.into(), serde_json::to_string(task)?.into())];
    Ok(supervise(&node, &program)?)
}

/// Two processes of PyTorch.
fn theirs(python: &Path, task: &Task) -> Result<()> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let start = |rank: usize| {
        Command::new(python)
            .arg(PEER)
            .args([&task.folder, &task.out])
            .args([task.blocks, WIDTH].map(|number| number.to_string()))
            .envs([("RANK", rank), ("WORLD_SIZE", RANKS)].map(|(k, v)| (k, v.to_string())))
            .envs([
                ("MASTER_ADDR", "127.0.0.1"),
                ("MASTER_PORT", &port.to_string()),
            ])
            .envs([("GLOO_SOCKET_IFNAME", "lo"), ("OMP_NUM_THREADS", "1")])
            .spawn()
    };
    let children: Vec<Child> = (0..RANKS).map(start).collect::<std::io::Result<_>>()?;
    for mut child in children {
        if !child.wait()?.success() {
            return Err("PyTorch's side failed".into());
        }
    }
    Ok(())
}

#[derive(Module, Debug)]
struct Tower {
    blocks: Vec<Linear>,
}

impl Tower {
    fn new(blocks: usize, device: &Device) -> Self {
        let block = || {
            LinearConfig::new(WIDTH, WIDTH)
                .with_bias(false)
                .init(device)
        };
        Self {
            blocks: (0..blocks).map(|_| block()).collect(),
        }
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        unit(self, x, |tower: &Self, mut x| {
            for block in &tower.blocks {
                x = unit(block, x, |block: &Linear, x| block.forward(x));
            }
            x.powi_scalar(2).mean()
        })
    }
}

/// Runs `f` on all ranks together, and notes the time of the slower one.
fn timed<T>(
    world: &World,
    times: &mut Times,
    what: &str,
    f: impl FnOnce() -> burn_dist::Result<T>,
) -> burn_dist::Result<T> {
    world.comm().barrier(&"begin".into())?;
    let start = Instant::now();
    let value = f()?;
    let mut slower = [start.elapsed().as_secs_f64()];
    world
        .comm()
        .all_reduce(&"time".into(), Reduce::Max, SpanMut::of(&mut slower))?;
    times.insert(what.into(), slower[0]);
    Ok(value)
}

fn step(
    world: &World,
    model: Tower,
    optimizer: &mut ModuleOptimizer,
    at: u64,
) -> burn_dist::Result<Tower> {
    // Few samples: what matters is that the state changes.
    let x = world
        .noise(at)
        .random([4, WIDTH], Distribution::Default, &world.device(), 0);
    let grads = world.backward(model.loss(x), &model)?;
    Ok(optimizer.step(1e-4, model, grads.into_params()))
}

/// A rank of ours.
fn ours(task: &Task) -> burn_dist::Result<()> {
    burn_dist::launch(&Flags::default())
        .run(|world| {
            let mut times = Times::new();
            let make = || -> burn_dist::Result<(Tower, ModuleOptimizer)> {
                let model = Tower::new(task.blocks, &world.device());
                let model = Strategy::fsdp().shard(model, &world)?;
                let optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
                Ok((model, optimizer))
            };
            let (mut model, mut optimizer) = make()?;
            let mut at = 0;
            let mut steps = Vec::new();
            for _ in 0..5 {
                let start = Instant::now();
                model = step(&world, model, &mut optimizer, at)?;
                steps.push(start.elapsed().as_secs_f64());
                at += 1;
            }
            // The first allocates.
            let usual = steps[1..].iter().copied().fold(f64::MAX, f64::min);
            let mut saves = world.checkpointer(&task.folder)?;
            for what in ["first save", "save"] {
                let save = Save::new(at).model("model", &model, &optimizer);
                timed(&world, &mut times, what, || saves.save(save))?;
                model = step(&world, model, &mut optimizer, at)?;
                at += 1;
            }
            let begun = Instant::now();
            let save = Save::new(at).model("model", &model, &optimizer);
            timed(&world, &mut times, "stall", || {
                saves.save_in_background(save)
            })?;
            let mut more = 0.0;
            while begun.elapsed().as_secs() < 60 {
                let start = Instant::now();
                model = step(&world, model, &mut optimizer, at)?;
                more += start.elapsed().as_secs_f64() - usual;
                // All ranks end alike: the step is collective.
                let mut is_busy = [u8::from(!saves.is_idle())];
                let all = SpanMut::of(&mut is_busy);
                world.comm().all_reduce(&"busy".into(), Reduce::Max, all)?;
                if is_busy[0] == 0 {
                    break;
                }
            }
            timed(&world, &mut times, "wait", || saves.wait())?;
            times.insert("slower steps".into(), more);
            let (model, optimizer) = make()?;
            timed(&world, &mut times, "load", || {
                let mut save = world.open_save(&task.folder, Which::Latest)?;
                let loaded = save.model("model", model, optimizer)?;
                save.finish()?;
                Ok(loaded)
            })?;
            if world.is_chief() {
                let text = serde_json::to_vec(&times).map_err(Error::user)?;
                std::fs::write(&task.out, text)?;
            }
            Ok(())
        })
        .map(drop)
}
