//! Failures: they reach every rank, with one cause, and are final.

use crate::{Launch, on_ranks};
use burn_dist::comm::{Communicator, Label, Reduce, SpanMut};
use burn_dist::{Error, Result};
use std::time::Duration;

/// The error that all ranks returned.
fn shared(results: Vec<Result<()>>) -> Error {
    let same = results.windows(2).all(|pair| pair[0] == pair[1]);
    assert!(same, "ranks returned different results: {results:?}");
    let first = results.into_iter().next().unwrap();
    first.expect_err("every rank must return the error")
}

/// The last rank issues another call than the others: another kind, label, or length.
pub fn different_calls_are_an_error_on_all_ranks(launch: &impl Launch) {
    type Issue = fn(&Communicator, SpanMut<'_>) -> Result<()>;
    let usual: Issue = |comm, buffer| comm.all_reduce(&"usual".into(), Reduce::Sum, buffer);
    let kind: Issue = |comm, buffer| comm.broadcast(&"usual".into(), 0, buffer);
    let label: Issue = |comm, buffer| {
        let label = Label::from("usual").with_detail("other");
        comm.all_reduce(&label, Reduce::Sum, buffer)
    };
    let reduction: Issue = |comm, buffer| comm.all_reduce(&"usual".into(), Reduce::Max, buffer);
    for ranks in [2, 3] {
        for (odd, len) in [(kind, 9), (label, 9), (reduction, 9), (usual, 10)] {
            let results = launch.run(ranks, &|comm: &Communicator| {
                let is_odd = comm.rank() == ranks - 1;
                let mut buffer = vec![7.0f32; if is_odd { len } else { 9 }];
                let issue = if is_odd { odd } else { usual };
                let result = issue(comm, SpanMut::of(&mut buffer));
                assert!(
                    buffer.iter().all(|x| *x == 7.0),
                    "written before the calls agreed"
                );
                // The failure is final.
                assert_eq!(comm.barrier(&"later".into()), result);
                assert_eq!(comm.fault(), result.clone().err());
                result
            });
            let error = shared(results);
            let Error::Mismatch { rank, peer, .. } = error else {
                panic!("expected a mismatch, found {error}")
            };
            assert_eq!((rank, peer), (0, ranks - 1));
        }
    }
}

/// Rank 1 aborts while the others wait, in the world's group and in a group without rank 1.
pub fn an_abort_ends_pending_collectives(launch: &impl Launch) {
    let cause = Error::user("no more disk");
    let results = launch.run(3, &|comm: &Communicator| {
        let others = comm.split(comm.rank() % 2, 0)?;
        match comm.rank() {
            0 => comm.barrier(&"world".into())?,
            1 => {
                std::thread::sleep(Duration::from_millis(50));
                comm.abort(cause.clone());
                // The first cause is final.
                comm.abort(Error::user("later"));
                assert_eq!(comm.barrier(&"world".into()), Err(cause.clone()));
            }
            _ => others.barrier(&"others".into())?,
        }
        Err(cause.clone())
    });
    assert_eq!(shared(results), cause);
}

/// What the last rank took part in before it left is done; a later collective names it.
pub fn a_rank_that_has_left_is_named(launch: &impl Launch) {
    for ranks in [2, 3] {
        let last = ranks - 1;
        let results = launch.run(ranks, &|comm: &Communicator| {
            let mut count = [1u64];
            comm.all_reduce(&"before".into(), Reduce::Sum, SpanMut::of(&mut count))?;
            assert_eq!(count, [ranks as u64]);
            if comm.rank() == last {
                comm.leave();
                return Ok(());
            }
            comm.barrier(&"after".into())
        });
        for result in &results[..last] {
            let left = matches!(result, Err(Error::PeerLeft { peer, .. }) if *peer == last);
            assert!(left, "expected rank {last} to have left, found {result:?}");
        }
    }
    // A group of ranks that have all left is no failure.
    on_ranks(launch, 2, |_| Ok(()));
}
