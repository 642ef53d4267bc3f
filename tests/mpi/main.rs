//! Ranks as processes under `mpirun`: the conformance suite, failures, and a training.
//!
//! This program starts itself again under `mpirun`, once per case, and each of those processes is
//! one rank. It has no harness of its own, because a rank is not a test.

mod mpirun;
#[path = "../oracle/mod.rs"]
mod oracle;

use burn::optim::AdamWConfig;
use burn::tensor::DType;
use burn_dist::comm::{Communicator, Span, SpanMut, mpi};
use burn_dist::launch::{self, Threads};
use burn_dist::{Error, Result, Strategy, World};
use burn_dist_conformance::{Body, suite};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A deadline that no test reaches.
const FAR: Duration = Duration::from_secs(60);
/// A deadline that a test waits for, and longer than a busy machine keeps a rank away.
const NEAR: Duration = Duration::from_millis(2500);
/// A case: its program, its name, its number of ranks, and what the output of a job that must fail contains.
type Case = (&'static str, fn(), &'static [usize], Option<&'static str>);

/// Checks that expect an error of three ranks, where a world that is left out has none.
const FAIL_ON_PURPOSE: [&str; 4] = [
    "different_calls_are_an_error_on_all_ranks",
    "a_different_table_is_an_error_on_all_ranks",
    "an_abort_ends_pending_collectives",
    "a_rank_that_has_left_is_named",
];

const CASES: [Case; 10] = [
    ("conformance", conformance_suite, &[2, 4, 8], None),
    ("mismatch", mismatch, &[2, 3, 4], None),
    ("deadline", deadline, &[3], None),
    ("abort", abort, &[3], None),
    ("leave", leave, &[2, 3], None),
    (
        "panic",
        a_panic_reaches_the_others,
        &[2],
        Some("rank 0 was told: rank 1 panicked: no more coffee"),
    ),
    (
        "killed",
        a_killed_process_ends_the_job,
        &[2],
        Some("Killed"),
    ),
    (
        "stopped",
        a_stopped_process_is_missed,
        &[2],
        Some("rank 0 missed [1], and again at the end"),
    ),
    ("begins_once", mpi_begins_once, &[1], None),
    ("training", training_equals_that_of_threads, &[2], None),
];

fn main() -> ExitCode {
    if let Some(name) = mpirun::case() {
        match (name.as_str(), CASES.iter().find(|case| case.0 == name)) {
            ("speed", _) => speed(),
            (_, Some(case)) => case.1(),
            _ => panic!("no case {name}"),
        }
        return ExitCode::SUCCESS;
    }
    // As with any test program: `cargo test --test mpi -- abort` runs what has this in its name.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let mut failed = 0;
    for (name, _, sizes, fails_with) in CASES.iter().filter(|case| chosen(case.0)) {
        for size in *sizes {
            let since = Instant::now();
            match mpirun::job(name, *size, *fails_with) {
                Ok(output) => {
                    println!(
                        "test {name} on {size} ranks ... ok ({:.1?})",
                        since.elapsed()
                    );
                    output
                        .lines()
                        .filter(|l| l.starts_with("- "))
                        .for_each(|l| println!("  {l}"));
                }
                Err(why) => {
                    println!("test {name} on {size} ranks ... FAILED\n{why}");
                    failed += 1;
                }
            }
        }
    }
    if wanted.iter().any(|w| w == "speed") {
        println!(
            "{}",
            mpirun::job("speed", 2, None).unwrap_or_else(|why| why)
        );
    }
    println!("{failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
    text.unwrap_or_else(|| "without a message".into())
}

/// The result of every rank, by an exchange beside the world that is tested.
fn collect(wire: &Communicator, mine: &Result<()>) -> Vec<Result<()>> {
    const ROOM: usize = 1 << 15;
    let mut text = serde_json::to_vec(mine).unwrap();
    assert!(text.len() <= ROOM);
    text.resize(ROOM, b' ');
    let mut all = vec![0; ROOM * wire.size()];
    wire.all_gather(&"results".into(), Span::of(&text), SpanMut::of(&mut all))
        .unwrap();
    all.chunks(ROOM)
        .map(|text| serde_json::from_slice(text).unwrap())
        .collect()
}

fn conformance_suite() {
    let wire = Communicator::new(mpi::world(FAR).unwrap());
    let (skipped, launched) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let launch = |ranks: usize, body: Body<'_>| -> Vec<Result<()>> {
        if ranks > wire.size() {
            skipped.fetch_add(1, Ordering::Relaxed);
            return vec![Ok(()); ranks];
        }
        launched.fetch_add(1, Ordering::Relaxed);
        // A world for each run: what fails in one must not be seen in the next.
        let all = Communicator::new(mpi::world(FAR).unwrap());
        let part = all
            .split(usize::from(all.rank() >= ranks), all.rank())
            .unwrap();
        let mut mine = Ok(());
        if all.rank() < ranks {
            mine = catch_unwind(AssertUnwindSafe(|| body(&part))).unwrap_or_else(|payload| {
                Err(Error::user(format!("panicked: {}", message(&*payload))))
            });
            match &mine {
                Ok(()) => part.leave(),
                Err(error) => part.abort(error.clone()),
            }
        }
        let mut results = collect(&wire, &mine);
        results.truncate(ranks);
        results
    };
    let (mut ran, mut failed) = (0, 0);
    for (name, check) in suite!(table: launch) {
        if name == "worlds_of_one_process_do_not_meet" {
            if wire.rank() == 0 {
                println!("- {name}: left out, because a process is one rank of one world");
            }
            continue;
        }
        if wire.size() < 3 && FAIL_ON_PURPOSE.contains(&name) {
            if wire.rank() == 0 {
                println!("- {name}: left out, for it takes three ranks");
            }
            continue;
        }
        let before = skipped.load(Ordering::Relaxed);
        launched.store(0, Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(check));
        let mine = result.map_err(|payload| Error::user(message(&*payload)));
        let over = skipped.load(Ordering::Relaxed) - before;
        if wire.rank() == 0 && over > 0 {
            let size = wire.size();
            println!("- {name}: {over} worlds larger than these {size} ranks were left out");
        }
        for (rank, result) in collect(&wire, &mine).into_iter().enumerate() {
            if let Err(error) = result {
                println!("{name} failed on rank {rank}: {error}");
                failed += 1;
            }
        }
        ran += usize::from(launched.load(Ordering::Relaxed) > 0);
    }
    if wire.rank() == 0 {
        println!(
            "- {ran} checks ran, {} worlds left out",
            skipped.into_inner()
        );
    }
    mpi::close(FAR).unwrap();
    assert_eq!(failed, 0);
}

/// The engine of this rank, and a second world to compare what ranks saw in the first.
fn worlds(deadline: Duration) -> (Communicator, Communicator) {
    let comm = Communicator::new(mpi::world(deadline).unwrap());
    (comm, Communicator::new(mpi::world(FAR).unwrap()))
}

/// The error that all ranks returned; they must be equal.
fn shared(wire: &Communicator, mine: &Result<()>) -> Error {
    let results = collect(wire, mine);
    assert!(
        results.windows(2).all(|pair| pair[0] == pair[1]),
        "{results:?}"
    );
    results[0].clone().unwrap_err()
}

fn mismatch() {
    let names: [&str; 2] = ["same", "other"];
    // A short detail, and one that is cut on its way.
    for length in [3, 100_000] {
        let (comm, wire) = worlds(FAR);
        let odd = comm.rank() == 1;
        let label =
            burn_dist::comm::Label::from(names[usize::from(odd)]).with_detail("x".repeat(length));
        let mut buffer = vec![7.0f32; 100_000];
        let result = if odd {
            comm.all_gather_in_place(&label, SpanMut::of(&mut buffer[..100 * comm.size()]))
        } else {
            comm.broadcast(&label, 0, SpanMut::of(&mut buffer))
        };
        assert!(
            buffer.iter().all(|x| *x == 7.0),
            "written to before ranks agreed"
        );
        let error = shared(&wire, &result);
        let text = error.to_string();
        assert!(
            matches!(
                error,
                Error::Mismatch {
                    rank: 0,
                    peer: 1,
                    ..
                }
            ),
            "{text}"
        );
        assert!(
            text.contains("all_gather of other #0")
                && text.contains("broadcast from rank 0 of same")
        );
        assert!(text.len() < 20_000);
        // The group is of no further use.
        assert_eq!(comm.barrier(&"after".into()), Err(error));
    }
    mpi::close(FAR).unwrap();
}

fn deadline() {
    let (comm, wire) = worlds(NEAR);
    comm.barrier(&"start".into()).unwrap();
    // Rank 2 comes when both others have given up, whenever that is.
    let given_up = || wire.barrier(&"given up".into()).unwrap();
    let since = Instant::now();
    if comm.rank() == 2 {
        given_up();
    }
    let result = comm.barrier(&"late".into());
    if comm.rank() != 2 {
        assert!(since.elapsed() < 3 * NEAR, "{:?}", since.elapsed());
        given_up();
    }
    let error = shared_in_kind(&wire, &result);
    assert!(error.to_string().contains("barrier of late #1"), "{error}");
    mpi::close(FAR).unwrap();
}

/// As [`shared`], where two ranks may have noticed at the same moment.
fn shared_in_kind(wire: &Communicator, mine: &Result<()>) -> Error {
    for result in collect(wire, mine) {
        let Err(Error::Timeout {
            waited,
            missing,
            rank,
            ..
        }) = result
        else {
            panic!("{result:?}")
        };
        assert_eq!((waited, missing.as_slice()), (NEAR, &[2][..]));
        assert!(rank < 2);
    }
    mine.clone().unwrap_err()
}

fn abort() {
    let (comm, wire) = worlds(FAR);
    let pair = comm.split(comm.rank() / 2, 0).unwrap();
    let since = Instant::now();
    let cause = Error::user("no more disk");
    // The ranks wait in other groups than the one that fails does.
    let result = match comm.rank() {
        2 => {
            std::thread::sleep(Duration::from_millis(100));
            comm.abort(cause.clone());
            comm.barrier(&"mine".into())
        }
        0 => comm.barrier(&"world".into()),
        _ => pair.barrier(&"pair".into()),
    };
    assert_eq!(shared(&wire, &result), cause);
    assert!(since.elapsed() < FAR / 4);
    // The first one wins, and the other world goes on.
    comm.abort(Error::user("later"));
    assert_eq!(comm.barrier(&"after".into()), Err(cause));
    wire.barrier(&"fine".into()).unwrap();
    mpi::close(FAR).unwrap();
}

fn leave() {
    let (comm, wire) = worlds(FAR);
    let mut buffer = vec![comm.rank() as u64; 3000];
    // What a rank took part in before it left is done.
    comm.all_reduce(
        &"before".into(),
        burn_dist::comm::Reduce::Max,
        SpanMut::of(&mut buffer),
    )
    .unwrap();
    assert_eq!(buffer, vec![comm.size() as u64 - 1; 3000]);
    let result = if comm.rank() == 1 {
        comm.leave();
        Ok(())
    } else {
        comm.barrier(&"alone".into())
    };
    for (rank, result) in collect(&wire, &result).into_iter().enumerate() {
        match result {
            Ok(()) => assert_eq!(rank, 1),
            Err(Error::PeerLeft { peer: 1, call, .. }) => assert!(call.contains("alone")),
            Err(error) => panic!("{error}"),
        }
    }
    mpi::close(FAR).unwrap();
}

fn a_panic_reaches_the_others() {
    let result = launch::Mpi::new().deadline(FAR).run(|world| {
        if world.rank() == 1 {
            panic!("no more coffee");
        }
        let error = world.comm().barrier(&"waiting".into()).unwrap_err();
        let Error::PeerFailed { peer: 1, cause } = &error else {
            panic!("{error}")
        };
        println!("rank 0 was told: {cause}");
        Err::<(), _>(error)
    });
    result.unwrap();
}

fn a_stopped_process_is_missed() {
    let comm = Communicator::new(mpi::world(NEAR).unwrap());
    comm.barrier(&"start".into()).unwrap();
    if comm.rank() == 1 {
        std::thread::spawn(|| {
            // In the middle of the data, as likely as not.
            std::thread::sleep(Duration::from_millis(30));
            let id = std::process::id().to_string();
            Command::new("kill").args(["-STOP", &id]).status().unwrap();
        });
    }
    let mut buffer = vec![1.0f32; 1 << 22];
    let error = loop {
        if let Err(error) = comm.all_gather_in_place(&"much".into(), SpanMut::of(&mut buffer)) {
            break error;
        }
    };
    let Error::Timeout { missing, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(missing, &[1]);
    // Nobody else is waited for here.
    let Err(Error::Timeout { missing: again, .. }) = mpi::close(NEAR / 10) else {
        panic!("closed")
    };
    println!("rank 0 missed {missing:?}, and again at the end");
    assert_eq!(&again, missing);
    std::process::exit(1);
}

/// MPI ends the whole job before a rank can report an error.
fn a_killed_process_ends_the_job() {
    let comm = Communicator::new(mpi::world(FAR).unwrap());
    comm.barrier(&"start".into()).unwrap();
    if comm.rank() == 1 {
        let id = std::process::id().to_string();
        Command::new("kill").args(["-KILL", &id]).status().unwrap();
    }
    let since = Instant::now();
    let result = comm.barrier(&"alone".into());
    println!("returned {result:?} after {:?}", since.elapsed());
}

fn mpi_begins_once() {
    let one = launch::Mpi::new().run(|world| Ok((world.rank(), world.size())));
    assert_eq!(one, Ok((0, 1)));
    for refused in [launch::Mpi::new().run(|_| Ok(())), mpi::close(FAR)] {
        assert!(matches!(refused, Err(Error::Config { .. })), "{refused:?}");
    }
}

fn train(world: &World) -> Result<oracle::Trace> {
    let model = oracle::Mlp::new(2, &world.device());
    let model = Strategy::fsdp().shard(model, world)?;
    let optimizer = AdamWConfig::new().with_weight_decay(0.01).init();
    oracle::sharded(world, model, optimizer, 3, 1e-2, |model, step| {
        let mine = oracle::rows(&oracle::batch(24, 7, step), world.rank(), world.size());
        let x = oracle::tensor(&mine, DType::F32, &world.device());
        let loss = model.forward(x).powi_scalar(2).mean();
        Ok((oracle::scalar(&loss), world.backward(loss, model)?))
    })
}

fn training_equals_that_of_threads() {
    let threads = Threads::new(2)
        .seed(7)
        .deadline(FAR)
        .run(|world| train(&world))
        .unwrap();
    let processes = launch::Mpi::new()
        .seed(7)
        .deadline(FAR)
        .run(|world| Ok((world.rank(), train(&world)?)));
    let (rank, trace) = processes.unwrap();
    let expected = &threads[rank];
    assert_eq!(trace.losses.len(), 3);
    // f64 holds every f32, and nothing here is a NaN or a zero of either sign by chance.
    assert_eq!(trace.losses, expected.losses);
    assert_eq!(trace.gradients, expected.gradients);
    assert_eq!(trace.parameters, expected.parameters);
}

fn speed() {
    let comm = Communicator::new(mpi::world(FAR).unwrap());
    for (bytes, turns) in [
        (8, 2000),
        (1 << 10, 2000),
        (1 << 16, 500),
        (1 << 20, 100),
        (16 << 20, 20),
    ] {
        let mut buffer = vec![0u8; bytes * comm.size()];
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let since = Instant::now();
            for _ in 0..turns {
                comm.all_gather_in_place(&"speed".into(), SpanMut::of(&mut buffer))
                    .unwrap();
            }
            best = best.min(since.elapsed() / turns);
        }
        if comm.rank() == 0 {
            let rate = (bytes * (comm.size() - 1)) as f64 / best.as_secs_f64() / 1e9;
            println!("all_gather of {bytes} bytes per rank: {best:?}, {rate:.2} GB/s received");
        }
    }
    mpi::close(FAR).unwrap();
}
