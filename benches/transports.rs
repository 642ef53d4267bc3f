//! Speed of the collectives between two processes, compared with gloo's where PyTorch is installed.
//!
//! ```text
//! cargo bench --bench transports
//! BURN_DIST_PYTHON=venv/bin/python cargo bench --bench transports   beside gloo
//! ```
//!
//! Sizes and bandwidths are nccl-tests': a size is the full buffer's, and bus bandwidth is what a
//! ring has to send, `(n - 1) / n` of it (twice that for an all-reduce), over the time. A time is
//! that of the slowest rank after a barrier. The transports are measured in turn, in several rounds, and the bars
//! are ratios of medians and of the fastest tenth, so that other load on the machine affects all equally.

use burn_dist::comm::{Communicator, Reduce, Span, SpanMut};
use burn_dist::launch::{Flags, Node, Program, supervise};
use burn_dist::{Error, Result};
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const LARGE: usize = 16 * MIB;
const LARGEST: usize = 64 * MIB;
const SIZES: [usize; 5] = [KIB, 64 * KIB, MIB, LARGE, LARGEST];
const RANKS: usize = 2;
const ROUNDS: usize = 3;
/// The file of a rank's times, and how often it measures.
const OUT: &str = "BURN_DIST_BENCH_OUT";
/// The copy is that of the half which a gather moves, between buffers of the same sizes.
const OPERATIONS: [&str; 4] = ["copy", "all_gather", "reduce_scatter", "all_reduce"];
const WAYS: [&str; 4] = ["shm", "ring", "tcp", "gloo"];

/// Seconds of one operation: the median and the fastest tenth.
type Row = (String, usize, f64, f64);

fn main() -> std::result::Result<(), Box<dyn StdError>> {
    if let Some(out) = std::env::var_os(OUT) {
        let measured = burn_dist::launch(&Flags::default()).run(|world| {
            let rows = measure(world.comm())?;
            if world.is_chief() {
                let text = serde_json::to_vec(&rows).map_err(Error::user)?;
                std::fs::write(&out, text).map_err(Error::user)?;
            }
            Ok(())
        });
        return Ok(measured.map(drop)?);
    }
    let python = std::env::var_os("BURN_DIST_PYTHON").map(PathBuf::from);
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("rows.json");
    let mut best: BTreeMap<(&str, String, usize), (f64, f64)> = BTreeMap::new();
    for round in 0..ROUNDS {
        for way in WAYS {
            match (way, &python) {
                ("gloo", None) => continue,
                ("gloo", Some(python)) => gloo(python, &out)?,
                _ => ours(way, &out)?,
            }
            let rows: Vec<Row> = serde_json::from_slice(&std::fs::read(&out)?)?;
            for (name, size, median, fast) in rows {
                let best = best
                    .entry((way, name, size))
                    .or_insert((f64::MAX, f64::MAX));
                *best = (best.0.min(median), best.1.min(fast));
            }
        }
        eprintln!("round {} of {ROUNDS}", round + 1);
    }
    let mut missed = Vec::new();
    println!(
        "{:16}{:>10}  median (fastest tenth) in us, bus bandwidth in GB/s",
        "", "bytes"
    );
    for name in OPERATIONS {
        for size in SIZES {
            let ring = if name == "all_reduce" { 2.0 } else { 1.0 } / RANKS as f64;
            let bus = (size as f64 * ring * (RANKS - 1) as f64) / 1e9;
            let mut line = format!("{name:16}{size:>10}");
            for way in WAYS {
                if let Some((median, fast)) = best.get(&(way, name.into(), size)) {
                    let (us, fast) = (median * 1e6, fast * 1e6);
                    line += &format!("  {way} {us:.0} ({fast:.0}) {:.2}", bus / median);
                }
            }
            let ratio = |way, (other, operation): (_, &str)| {
                let a = best.get(&(way, name.to_owned(), size))?;
                let b = best.get(&(other, operation.to_owned(), size))?;
                Some((a.0 / b.0).min(a.1 / b.1))
            };
            let (gloo, copy) = (("gloo", name), ("shm", "copy"));
            let bars = match (name, size) {
                ("copy", _) => Vec::new(),
                ("all_reduce", KIB | MIB..) => vec![("tcp", gloo, 0.9)],
                (_, KIB) => vec![("shm", gloo, 1.0), ("tcp", gloo, 1.0)],
                (_, MIB..) => vec![("shm", gloo, 0.5), ("tcp", gloo, 1.0)],
                _ => Vec::new(),
            };
            let in_place = match (name, size) {
                ("all_gather", LARGE) => vec![("shm", copy, 2.0)],
                ("all_gather", LARGEST) => vec![("shm", copy, 1.5)],
                _ => Vec::new(),
            };
            for (way, than, bar) in in_place.into_iter().chain(bars) {
                let Some(ratio) = ratio(way, than) else {
                    continue;
                };
                let than = if than == copy { "copy" } else { "gloo" };
                line += &format!("  {way}/{than} {ratio:.2}");
                if ratio > bar {
                    missed.push(format!(
                        "{name} of {size}: {way} takes {ratio:.2} of {than}'s time, bar {bar}"
                    ));
                }
            }
            println!("{line}");
        }
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(missed.join("\n").into())
    }
}

/// Two processes of this program.
fn ours(transport: &str, out: &Path) -> Result<()> {
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
    let mut program = Program::new(std::env::current_exe().map_err(Error::user)?);
    program.env = vec![
        (OUT.into(), out.into()),
        ("BURN_DIST_TRANSPORT".into(), transport.into()),
    ];
    supervise(&node, &program)
}

/// Two processes of the same in Python.
fn gloo(python: &Path, out: &Path) -> std::result::Result<(), Box<dyn StdError>> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let start = |rank: usize| {
        Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gloo.py"))
            .arg(serde_json::to_string(&SIZES).unwrap_or_default())
            .arg("20")
            .arg(out)
            .envs([
                ("RANK", rank.to_string()),
                ("WORLD_SIZE", RANKS.to_string()),
            ])
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
            return Err("gloo's side failed; does this Python have PyTorch?".into());
        }
    }
    Ok(())
}

fn repeats(size: usize) -> usize {
    if size > 4 * MIB { 20 } else { 40 }
}

/// One rank's part: every operation at every size.
fn measure(comm: &Communicator) -> Result<Vec<Row>> {
    let label = "bench".into();
    let mut rows = Vec::new();
    for size in SIZES {
        let mut whole = vec![1.0f32; size / 4];
        let len = size / 4 / comm.size();
        let mut piece = vec![1.0f32; len];
        let peers = (comm.rank() + 1) % comm.size() * len;
        for name in OPERATIONS {
            let mut times = Vec::new();
            for _ in 0..repeats(size) + 2 {
                comm.barrier(&label)?;
                let start = Instant::now();
                match name {
                    "copy" => whole[peers..peers + len].copy_from_slice(black_box(&piece)),
                    // As sharding does: a rank writes its shard where it belongs.
                    "all_gather" => {
                        comm.all_gather_in_place(&label, SpanMut::of(&mut whole))?;
                    }
                    "reduce_scatter" => {
                        let (send, recv) = (Span::of(&whole), SpanMut::of(&mut piece));
                        comm.reduce_scatter(&label, Reduce::Sum, send, recv)?;
                    }
                    _ => comm.all_reduce(&label, Reduce::Max, SpanMut::of(&mut whole))?,
                }
                let mut slowest = [start.elapsed().as_secs_f64()];
                comm.all_reduce(&label, Reduce::Max, SpanMut::of(&mut slowest))?;
                times.push(slowest[0]);
            }
            times.drain(..2);
            times.sort_by(f64::total_cmp);
            let (median, fast) = (times[times.len() / 2], times[times.len() / 10]);
            rows.push((name.to_owned(), size, median, fast));
        }
    }
    Ok(rows)
}
