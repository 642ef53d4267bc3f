//! A training step of ours beside PyTorch's of the same model, weights and batch.
//!
//! ```sh
//! BURN_DIST_PYTHON=venv/bin/python cargo bench --bench beside_pytorch   # a Python with torch, numpy
//! ```
//!
//! After `--`, a word keeps the rows that contain it, `--compile` adds rows with `torch.compile`, and `--out DIR`
//! writes the table and a picture there. PyTorch's side is eager, with scaled dot-product attention, fused AdamW
//! and gloo: DistributedDataParallel, or FSDP2 with a `fully_shard` for each block and the root. Both sides keep
//! their processes for all rounds and take turns of a few steps; each ratio is that of a round's medians. Every
//! step reads its loss, clips by the global norm and updates. Without dropout the losses of the first steps are
//! compared before anything is timed. Ours allocates with mimalloc and moves bytes through shared memory, as our examples
//! do; PyTorch has the system's allocator and gloo over loopback, as its users do.

#![allow(clippy::unwrap_used)]

mod case;
mod ours;
mod table;

use case::{Answer, Case};
use mimalloc::MiMalloc;
use std::error::Error as StdError;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use table::Row;

/// As in the examples: large tensors come and go, at which the system's allocator is slow.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

/// The case of a process that is a rank of ours.
const CASE: &str = "BURN_DIST_BENCH_CASE";
/// PyTorch's side.
const PEER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/benches/beside_pytorch/peer.py"
);
/// Steps that warm up and whose losses are compared.
const WARM_UP: usize = 3;
const ROUNDS: usize = 7;
/// Steps of one turn.
const STEPS: usize = 3;
/// How far the losses of the two may be apart, relatively: f32 in another order.
const SAME: f64 = 2e-4;

type Result<T> = std::result::Result<T, Box<dyn StdError>>;

fn main() -> Result<()> {
    if let Ok(case) = std::env::var(CASE) {
        return Ok(ours::main(&serde_json::from_str(&case)?)?);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo's flag: without it, as under `cargo test`, nothing is timed.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(python) = std::env::var_os("BURN_DIST_PYTHON").map(PathBuf::from) else {
        println!("skipped: BURN_DIST_PYTHON names no Python with PyTorch");
        return Ok(());
    };
    let out = arguments.iter().position(|argument| argument == "--out");
    let out = out.and_then(|at| arguments.get(at + 1)).map(PathBuf::from);
    if let Some(out) = &out {
        std::fs::create_dir_all(out)?;
    }
    let is_filter = |argument: &&String| {
        !argument.starts_with("--") && out.as_deref() != Some(Path::new(argument))
    };
    let filter = arguments.iter().find(is_filter);
    let compile = arguments.iter().any(|argument| argument == "--compile");

    let cases = Case::all(compile).into_iter();
    let cases = cases.filter(|case| filter.is_none_or(|word| case.title().contains(word.as_str())));
    let mut rows = Vec::new();
    println!("{}", table::HEAD);
    for case in cases {
        let row = compare(&case, &python)?;
        println!("{row}");
        rows.push(row);
    }
    let start = match filter {
        None => Some(starts(&python)?),
        Some(_) => None,
    };
    let rate = Command::new(&python).arg(PEER).arg("rate").output()?;
    let rate = String::from_utf8_lossy(&rate.stdout).trim().to_string();
    let summary = table::summary(&rows, start, &rate);
    println!("{summary}");
    if let Some(out) = out {
        let lines: Vec<String> = rows.iter().map(Row::to_string).collect();
        let text = format!("{}\n{}\n\n{summary}\n", table::HEAD, lines.join("\n"));
        std::fs::write(out.join("beside_pytorch.md"), text)?;
        std::fs::write(out.join("beside_pytorch.svg"), table::picture(&rows))?;
    }
    Ok(())
}

/// The processes of one side.
struct Side {
    ranks: Vec<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

impl Side {
    /// Starts a process for each rank.
    fn start(case: &Case, program: impl Fn() -> Command) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let mut ranks = Vec::new();
        for rank in 0..case.world {
            let mut command = program();
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let threads = case.threads.to_string();
            for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
                command.env(name, &threads);
            }
            if case.strategy != "single" {
                // PyTorch's variables and ours.
                for prefix in ["", "BURN_DIST_"] {
                    for (name, value) in [
                        ("RANK", rank.to_string()),
                        ("LOCAL_RANK", rank.to_string()),
                        ("WORLD_SIZE", case.world.to_string()),
                        ("LOCAL_WORLD_SIZE", case.world.to_string()),
                        ("MASTER_ADDR", "127.0.0.1".to_string()),
                        ("MASTER_PORT", port.to_string()),
                    ] {
                        command.env(format!("{prefix}{name}"), value);
                    }
                }
                command.env("GLOO_SOCKET_IFNAME", "lo");
            }
            let mut child = command.spawn()?;
            let pipes = child.stdin.take().zip(child.stdout.take());
            let (stdin, stdout) = pipes.ok_or("a process without pipes")?;
            ranks.push((child, stdin, BufReader::new(stdout)));
        }
        Ok(Self { ranks })
    }

    /// Takes so many steps; the slowest rank's times, the first one's losses, and the most of the rest.
    fn take(&mut self, steps: usize) -> Result<Answer> {
        for (_, stdin, _) in &mut self.ranks {
            writeln!(stdin, "{steps}")?;
            stdin.flush()?;
        }
        let mut all: Option<Answer> = None;
        for (_, _, stdout) in &mut self.ranks {
            let mut line = String::new();
            stdout.read_line(&mut line)?;
            let answer: Answer = serde_json::from_str(&line)
                .map_err(|_| format!("a rank ended, or answered {line:?}"))?;
            match &mut all {
                None => all = Some(answer),
                Some(all) => {
                    let pairs = all.times.iter_mut().zip(answer.times);
                    pairs.for_each(|(time, other)| *time = time.max(other));
                    all.faults = all.faults.max(answer.faults);
                    all.peak = all.peak.max(answer.peak);
                    all.at = all.at.max(answer.at);
                }
            }
        }
        all.ok_or_else(|| "no ranks".into())
    }

    fn end(self) -> Result<()> {
        let mut children = Vec::new();
        for (child, stdin, _) in self.ranks {
            drop(stdin);
            children.push(child);
        }
        for mut child in children {
            if !child.wait()?.success() {
                return Err("a rank failed at its end".into());
            }
        }
        Ok(())
    }
}

fn ours(case: &Case) -> Result<Side> {
    let text = serde_json::to_string(case)?;
    let program = std::env::current_exe()?;
    Side::start(case, || {
        let mut command = Command::new(&program);
        command.env(CASE, &text);
        command
    })
}

fn theirs(case: &Case, python: &Path) -> Result<Side> {
    let text = serde_json::to_string(case)?;
    Side::start(case, || {
        let mut command = Command::new(python);
        command.arg(PEER).arg(&text);
        command
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(case: &Case, python: &Path) -> Result<Row> {
    let mut sides = [ours(case)?, theirs(case, python)?];
    let mut losses = Vec::new();
    for side in &mut sides {
        losses.push(side.take(WARM_UP)?.losses);
    }
    // Not "more than": what is no number is not the same.
    let is_same = |ours: &f64, theirs: &f64| (ours - theirs).abs() <= SAME * theirs.abs();
    let mut pairs = losses[0].iter().zip(&losses[1]);
    let same_length = losses[0].len() == losses[1].len();
    if case.dropout == 0.0 && !(same_length && pairs.all(|(a, b)| is_same(a, b))) {
        let title = case.title();
        return Err(format!("{title}: not the same training, losses {losses:?}").into());
    }
    let mut times = [Vec::new(), Vec::new()];
    let mut last: [Option<Answer>; 2] = [None, None];
    for round in 0..ROUNDS {
        // Neither always comes after the other.
        for turn in 0..2 {
            let side = (round + turn) % 2;
            let answer = sides[side].take(STEPS)?;
            times[side].push(median(answer.times.clone()));
            last[side] = Some(answer);
        }
    }
    for side in sides {
        side.end()?;
    }
    let [Some(ours), Some(theirs)] = last else {
        return Err("no rounds".into());
    };
    let pairs = times[0].iter().zip(&times[1]);
    let mut ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
    ratios.sort_by(f64::total_cmp);
    let [ours_ms, theirs_ms] = times.map(|times| 1e3 * median(times));
    Ok(Row {
        title: case.title(),
        ms: [ours_ms, theirs_ms],
        ratio: median(ratios.clone()),
        spread: [ratios[0], ratios[ratios.len() - 1]],
        goal: case.goal,
        peak: [ours.peak, theirs.peak],
        faults: [&ours, &theirs].map(|side| side.faults as f64 / STEPS as f64),
    })
}

/// Seconds from the start of two processes to the end of the second step of a small BERT under FSDP: the least of
/// three. Neither side has a launcher, which torchrun would add to.
fn starts(python: &Path) -> Result<[f64; 2]> {
    let all = Case::all(false);
    let case = all
        .iter()
        .rfind(|case| case.strategy == "fsdp" && case.world == 2);
    let case = case.ok_or("no such case")?;
    let mut least = [f64::INFINITY; 2];
    for _ in 0..3 {
        for (side, least) in least.iter_mut().enumerate() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            let mut started = if side == 0 {
                ours(case)?
            } else {
                theirs(case, python)?
            };
            let end = started.take(2)?.at;
            *least = least.min(end - now);
            started.end()?;
        }
    }
    Ok(least)
}
