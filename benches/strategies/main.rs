//! Strategies beside each other, at several numbers of ranks, with the options that change a step.
//!
//! Criterion measures steps of a Vision Transformer of 2.7 M parameters on 32 images a rank, each rank a thread with one thread to
//! compute on, where there are as many cores as ranks. The same steps are recorded as those of any run (`RunLog`), and the records end in
//! a table and a picture: `target/strategies.md` and `target/strategies.svg`.

mod case;
mod picture;
#[path = "../step_subject/mod.rs"]
mod subject;
mod table;
mod training;

use burn_dist::telemetry::Tracked;
use case::Case;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use mimalloc::MiMalloc;
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use subject::BATCH;
use training::{on_ranks, serve};

/// As in the examples: it counts memory, and the system's allocator is slow at allocating and freeing large tensors.
#[global_allocator]
static MEMORY: Tracked<MiMalloc> = Tracked::new(MiMalloc);

/// Where the table and the picture go: the folder that cargo builds into.
fn target() -> std::path::PathBuf {
    let program = std::env::current_exe().unwrap();
    // target/release/deps/program
    program.ancestors().nth(3).unwrap().to_path_buf()
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut measured = Vec::new();
    let mut group = criterion.benchmark_group("strategies");
    group.sampling_mode(SamplingMode::Flat);
    for ranks in [1, 2, 4].into_iter().filter(|ranks| *ranks <= cores) {
        for case in Case::all(ranks) {
            group.throughput(Throughput::Elements(
                (ranks * case.accumulate * BATCH) as u64,
            ));
            let id = BenchmarkId::new(case.to_string(), format!("{ranks} ranks"));
            let (ask, asked) = mpsc::channel();
            let (answer, answered) = mpsc::channel();
            let summary = std::thread::scope(|scope| {
                // The ranks outlive a measurement, or each would begin with making a model.
                let asked = Mutex::new(asked);
                let of_ranks = case.clone();
                let running = scope.spawn(move || {
                    on_ranks(ranks, |world| serve(world, &of_ranks, &asked, &answer))
                });
                group.bench_function(id, |b| {
                    b.iter_custom(|steps| {
                        ask.send(steps).unwrap();
                        answered.recv().unwrap()
                    });
                });
                drop(ask);
                running.join().unwrap().remove(0)
            });
            // Criterion may have been told to leave this one out.
            if summary.steps > 1 {
                measured.push((case, ranks, summary));
            }
        }
    }
    group.finish();
    criterion.final_summary();
    let table = table::table(&measured);
    println!("{table}");
    if !std::env::args().any(|arg| arg == "--bench") || measured.is_empty() {
        return;
    }
    let (md, svg) = (
        target().join("strategies.md"),
        target().join("strategies.svg"),
    );
    std::fs::write(&md, table).unwrap();
    std::fs::write(&svg, picture::picture(&measured)).unwrap();
    println!("{} {}", md.display(), svg.display());
}
