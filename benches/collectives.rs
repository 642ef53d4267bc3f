//! Throughput of the collectives between threads.
//!
//! Throughput is *bus bandwidth*, by the formulas of nccl-tests: `(n - 1) / n` of the full buffer
//! per all-gather or reduce-scatter, twice that per all-reduce. It does not depend on the number
//! of ranks where the links do not, so figures of different worlds and engines compare.
//!
//! The last figure is the bar: an all-gather has to copy its result once, so it is compared with
//! threads that only copy as much.

use burn_dist::comm::{Communicator, Label, Reduce, Span, SpanMut, local};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Bytes of the full buffer: what a gather receives, a reduction sends.
const SIZES: [usize; 5] = [4 * KIB, 64 * KIB, 512 * KIB, 4 * MIB, 16 * MIB];
const WORLDS: [usize; 2] = [2, 4];
/// An all-gather may take this many times as long as copying its result.
const BAR: f64 = 2.0;

#[derive(Clone, Copy)]
enum Kind {
    AllGather,
    ReduceScatter,
    AllReduce,
}

impl Kind {
    const ALL: [(Self, &str); 3] = [
        (Self::AllGather, "all_gather"),
        (Self::ReduceScatter, "reduce_scatter"),
        (Self::AllReduce, "all_reduce"),
    ];

    /// What one rank has to send for a full buffer of so many bytes.
    fn bus_bytes(self, full: usize, world: usize) -> u64 {
        let once = full * (world - 1) / world;
        match self {
            Self::AllReduce => 2 * once as u64,
            _ => once as u64,
        }
    }

    /// The time of `iterations` collectives, as rank 0 sees it.
    fn time(self, full: usize, world: usize, iterations: u64) -> Duration {
        let times = on_ranks(world, |comm| {
            let label = Label::from("bench");
            let mut whole = vec![1.0f32; full / 4];
            let mut piece = vec![1.0f32; full / 4 / world];
            let mut once = || match self {
                Self::AllGather => {
                    comm.all_gather(&label, Span::of(&piece), SpanMut::of(&mut whole))
                }
                Self::ReduceScatter => {
                    let (send, recv) = (Span::of(&whole), SpanMut::of(&mut piece));
                    comm.reduce_scatter(&label, Reduce::Sum, send, recv)
                }
                // The mean of equal numbers is the same number, however often it is taken.
                Self::AllReduce => comm.all_reduce(&label, Reduce::Mean, SpanMut::of(&mut whole)),
            };
            once().unwrap();
            let start = Instant::now();
            for _ in 0..iterations {
                once().unwrap();
            }
            let time = start.elapsed();
            black_box((whole, piece));
            time
        });
        times[0]
    }
}

/// Runs `f` on the ranks of a new world, each a thread, and returns what they return.
fn on_ranks<T: Send>(world: usize, f: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let f = &f;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = local::ranks(world, 1, Duration::from_secs(60))
            .into_iter()
            .map(|engine| scope.spawn(move || f(Communicator::new(engine))))
            .collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

fn bandwidth(c: &mut Criterion) {
    for (kind, name) in Kind::ALL {
        let mut group = c.benchmark_group(name);
        for world in WORLDS {
            for full in SIZES {
                group.throughput(Throughput::Bytes(kind.bus_bytes(full, world)));
                let id = BenchmarkId::new(format!("world {world}"), format!("{} KiB", full / KIB));
                group.bench_function(id, |b| b.iter_custom(|n| kind.time(full, world, n)));
            }
        }
        group.finish();
    }
}

/// The latency of a collective of few bytes.
fn latency(c: &mut Criterion) {
    let mut group = c.benchmark_group("latency");
    for world in WORLDS {
        let id = BenchmarkId::new("all_reduce of 1 KiB", format!("world {world}"));
        group.bench_function(id, |b| {
            b.iter_custom(|n| Kind::AllReduce.time(KIB, world, n));
        });
    }
    group.finish();
}

/// The best time of a copy of `bytes` on each of `threads` threads at once.
fn copying(bytes: usize, threads: usize, iterations: u64) -> Duration {
    let start_line = Barrier::new(threads);
    let copy = || {
        let from = vec![1u8; bytes];
        let mut to = vec![0u8; bytes];
        to.copy_from_slice(&from);
        start_line.wait();
        let start = Instant::now();
        for _ in 0..iterations {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
        }
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(copy)).collect();
        let times = running.into_iter().map(|t| t.join().unwrap());
        times.max().unwrap_or_default()
    })
}

/// Prints how an all-gather compares with copying; the smallest of several times each, because
/// other load on the machine only adds.
fn ratio(_: &mut Criterion) {
    const ITERATIONS: u64 = 10;
    let (mut gather, mut copy) = (Duration::MAX, Duration::MAX);
    for _ in 0..15 {
        gather = gather.min(Kind::AllGather.time(16 * MIB, 2, ITERATIONS));
        copy = copy.min(copying(16 * MIB, 2, ITERATIONS));
    }
    let ratio = gather.as_secs_f64() / copy.as_secs_f64();
    println!(
        "all_gather of 16 MiB on 2 ranks: {:?}; two threads copying 16 MiB each: {:?}; \
         ratio {ratio:.2} (bar: {BAR})",
        gather / ITERATIONS as u32,
        copy / ITERATIONS as u32,
    );
    assert!(ratio <= BAR, "an all-gather costs {ratio:.2} copies");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = latency, bandwidth, ratio
}
criterion_main!(benches);
