//! Links between nodes of a given bandwidth and latency: the time that collectives take, failures and refusals.

use crate::mesh::World;
use burn_dist::comm::mesh::{LinkShape, Transport};
use burn_dist::comm::{Communicator, Reduce, Span, SpanMut};
use burn_dist::{Error, Result};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

/// How much longer than the formula the fastest of some runs may take: other programs use this machine's cores too.
const LATE: Duration = Duration::from_millis(40);
const RUNS: usize = 5;

fn link(text: &str) -> LinkShape {
    text.parse().unwrap()
}

/// Ranks on so many hosts, with a link between these.
fn world(ranks: usize, hosts: usize, text: &str) -> World {
    World {
        link: Some(link(text)),
        ranks_a_host: ranks.div_ceil(hosts),
        ..World::new(ranks, Transport::Auto)
    }
}

/// What needs nothing but the world.
fn alone(_: &Communicator) -> Result<()> {
    Ok(())
}

fn gather(comm: &Communicator, len: usize) -> Result<()> {
    let mine = vec![comm.rank() as u8 + 1; len];
    let mut all = vec![0; len * comm.size()];
    comm.all_gather(&"unit".into(), Span::of(&mine), SpanMut::of(&mut all))?;
    for (rank, piece) in all.chunks(len).enumerate() {
        assert!(piece.iter().all(|x| *x == rank as u8 + 1), "of rank {rank}");
    }
    Ok(())
}

fn reduce(comm: &Communicator, len: usize) -> Result<()> {
    let mut buffer = vec![1u8; len];
    comm.all_reduce(&"unit".into(), Reduce::Sum, SpanMut::of(&mut buffer))?;
    assert!(buffer.iter().all(|x| usize::from(*x) == comm.size()));
    Ok(())
}

/// The times of some runs of `body` on what `prepare` makes of the world, each from when the first rank begins to
/// when the last one is done.
fn times<T>(
    world: &World,
    prepare: impl Fn(&Communicator) -> Result<T> + Sync,
    body: impl Fn(&Communicator, &T) -> Result<()> + Sync,
) -> Vec<Duration> {
    let together = Barrier::new(world.ranks);
    let moments = Mutex::new(vec![Vec::new(); RUNS]);
    let results = world.run(|comm| {
        let prepared = prepare(comm)?;
        for run in 0..RUNS {
            comm.barrier(&"before".into())?;
            together.wait();
            let begun = Instant::now();
            body(comm, &prepared)?;
            let moment = (begun, Instant::now());
            moments.lock().unwrap()[run].push(moment);
        }
        Ok(())
    });
    for result in results {
        result.unwrap();
    }
    let time = |ranks: Vec<(Instant, Instant)>| {
        let first = ranks.iter().map(|(begun, _)| *begun).min().unwrap();
        ranks.iter().map(|(_, done)| *done).max().unwrap() - first
    };
    moments
        .into_inner()
        .unwrap()
        .into_iter()
        .map(time)
        .collect()
}

/// None is shorter than the formula says, and the shortest is little longer.
fn expect(times: &[Duration], formula: Duration, what: &str) {
    let shortest = times.iter().min().unwrap();
    println!("{what}: {formula:?} by the formula, {shortest:?} measured");
    assert!(
        times.iter().all(|time| *time >= formula),
        "{what}: {times:?} below {formula:?}"
    );
    let most = formula.mul_f64(1.15) + LATE;
    assert!(*shortest <= most, "{what}: {times:?} above {most:?}");
}

#[test]
fn collectives_of_two_nodes_take_the_time_that_the_formula_says() {
    for (text, bytes) in [
        ("100mbit,5ms", 1_000_000),
        ("100mbit,60ms", 1_000_000),
        ("400mbit,5ms", 4_000_000),
        ("400mbit,60ms", 4_000_000),
    ] {
        let (world, link) = (world(2, 2, text), link(text));
        let found = times(&world, alone, |comm, ()| gather(comm, bytes));
        // A rank sends its piece at once, behind the announcement.
        let formula = link.time_of(bytes as u64);
        expect(
            &found,
            formula,
            &format!("{text}, all-gather of {bytes} bytes a rank"),
        );
        let found = times(&world, alone, |comm, ()| reduce(comm, bytes));
        // Half of the buffer to the other rank, and then half of the result.
        let formula = link.time_of(bytes as u64 / 2) * 2;
        expect(
            &found,
            formula,
            &format!("{text}, all-reduce of {bytes} bytes"),
        );
        let found = times(&world, alone, |comm, ()| comm.barrier(&"unit".into()));
        expect(&found, link.latency(), &format!("{text}, barrier"));
    }
}

#[test]
fn the_ranks_of_a_node_share_its_link() {
    let (text, bytes) = ("100mbit,5ms", 500_000);
    // Ranks 0 and 2, and ranks 1 and 3, gather at once.
    let found = times(
        &world(4, 2, text),
        |comm| comm.split(comm.rank() % 2, comm.rank()),
        |_, pair| gather(pair, bytes),
    );
    let formula = link(text).time_of(2 * bytes as u64);
    expect(&found, formula, "two gathers at once over one link");
}

#[test]
fn the_ranks_of_a_node_reach_each_other_without_the_link() {
    let since = Instant::now();
    let results = world(4, 2, "1mbit,20ms").run(|comm| {
        let node = comm.split(comm.rank() / 2, comm.rank())?;
        let since = Instant::now();
        // It would take 40 seconds over the link.
        gather(&node, 5_000_000)?;
        assert!(
            since.elapsed() < Duration::from_secs(4),
            "{:?}",
            since.elapsed()
        );
        Ok(())
    });
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(since.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_last_data_of_a_rank_that_leaves_at_once_arrives() {
    let results = world(2, 2, "50mbit,100ms").run(|comm| {
        let mut buffer = vec![comm.rank() as u8; 2_000_000];
        // The root has sent all of it to its socket long before it arrives.
        comm.broadcast(&"last".into(), 0, SpanMut::of(&mut buffer))?;
        assert!(buffer.iter().all(|x| *x == 0));
        Ok(())
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}

/// Runs a world that must fail in time, all ranks with the same error.
fn refused(world: &World, body: impl Fn(&Communicator) -> Result<()> + Sync) -> Error {
    let since = Instant::now();
    let results = world.run(body);
    let errors: Vec<Error> = results.into_iter().map(Result::unwrap_err).collect();
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "{:?}",
        since.elapsed()
    );
    assert!(errors.iter().all(|e| *e == errors[0]), "{errors:?}");
    errors[0].clone()
}

fn assert_mentions(error: &Error, words: &[&str]) {
    let text = error.to_string();
    assert!(
        words.iter().all(|word| text.contains(word)),
        "{words:?}: {text}"
    );
}

#[test]
fn a_failure_and_a_deadline_are_noticed_through_a_slow_link() {
    // The data would take minutes.
    let slow = world(3, 3, "100kbit,200ms");
    let error = refused(&slow, |comm| match comm.rank() {
        1 => {
            std::thread::sleep(Duration::from_millis(100));
            Err(Error::user("no more disk"))
        }
        _ => gather(comm, 5_000_000),
    });
    assert_eq!(error, Error::user("no more disk"));
    let hurried = World {
        deadline: Duration::from_millis(1500),
        ..slow.clone()
    };
    let error = refused(&hurried, |comm| gather(comm, 5_000_000));
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let errors = slow.run(|comm| match comm.rank() {
        2 => Ok(()),
        _ => gather(comm, 1000),
    });
    for error in &errors[..2] {
        assert!(
            matches!(error, Err(Error::PeerLeft { peer: 2, .. })),
            "{errors:?}"
        );
    }
}

#[test]
fn links_that_make_no_sense_are_one_error_on_all_ranks() {
    let nothing = |_: &Communicator| Ok(());
    let two = world(3, 2, "1gbit,5ms");
    for odd in 0..3 {
        let other = World {
            odd_link: Some((odd, Some(link("1gbit,6ms")))),
            ..two.clone()
        };
        let words = [
            "the same on all ranks",
            "1gbit,5ms on rank",
            "1gbit,6ms on rank",
        ];
        assert_mentions(&refused(&other, nothing), &words);
        let none = World {
            odd_link: Some((odd, None)),
            ..two.clone()
        };
        let words = [
            "the same on all ranks",
            "none on rank",
            &format!("on rank {odd}"),
        ];
        assert_mentions(&refused(&none, nothing), &words);
    }
    let one = world(3, 1, "1gbit,5ms");
    let words = [
        "several nodes",
        "--nnodes 2",
        "1gbit,5ms",
        "3 rank(s) on one node",
    ];
    assert_mentions(&refused(&one, nothing), &words);
    for (transport, name) in [(Transport::Shm, "shm"), (Transport::Ring, "ring")] {
        let memory = World {
            transport,
            ..two.clone()
        };
        assert_mentions(&refused(&memory, nothing), &["link", "auto or tcp", name]);
    }
}
