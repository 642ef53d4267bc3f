//! The end of communicators: each is finalized and destroyed, or aborted, exactly once.

use crate::memory::buffer;
use crate::mock;
use crate::ranks::{FAR, LAST, NEAR, ORDERS, Rank, options, run, succeed};
use burn_dist::comm::{Order, Reduce};
use burn_dist::{Error, Result};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn sum(rank: &Rank) -> Result<()> {
    let sum = buffer::<f32>(10);
    let arrival = rank.device().all_reduce(&"sum".into(), Reduce::Sum, &sum)?;
    // Nobody waits.
    drop((sum, arrival));
    Ok(())
}

/// The calls of the ranks until their end.
fn endings(
    ranks: usize,
    order: Order,
    deadline: Duration,
    body: fn(&Rank) -> Result<()>,
) -> Vec<String> {
    let results = run(ranks, FAR, options(order, deadline), |rank| {
        let result = body(rank);
        if result.is_ok() {
            rank.comm.leave();
            rank.comm.leave();
        }
        result
    });
    drop(results);
    std::mem::take(&mut *LAST.lock().unwrap())
}

/// The end of each communicator.
fn by_comm(log: &[String]) -> BTreeMap<&str, Vec<&str>> {
    let mut calls: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in log {
        let mut words = line.split(' ');
        let (comm, call) = (words.next().unwrap(), words.next_back().unwrap());
        calls.entry(comm).or_default().push(call);
    }
    calls
}

pub(crate) fn orderly() {
    for order in ORDERS {
        for delay in [0, 5_000] {
            mock::set("delay_us", None, delay);
            mock::set("finalize_delay_ms", None, 10);
            let log = endings(3, order, FAR, |rank| {
                let group = rank.comm.split(0, 0)?;
                for _ in 0..3 {
                    sum(rank)?;
                    let data = buffer::<u8>(4);
                    let device = group.on_device().unwrap();
                    let _dropped = device.broadcast(&"b".into(), 1, &data)?;
                }
                Ok(())
            });
            let calls = by_comm(&log);
            assert_eq!(calls.len(), 6);
            for calls in calls.values() {
                let end = &calls[calls.len() - 2..];
                assert_eq!(end, ["ncclCommFinalize", "ncclCommDestroy"]);
                assert_eq!(calls.iter().filter(|c| c.contains("Finalize")).count(), 1);
            }
        }
    }
    succeed(1, Order::Host, |rank| {
        sum(rank)?;
        rank.comm.leave();
        let error = sum(rank).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        Ok(())
    });
}

pub(crate) fn abrupt() {
    for order in ORDERS {
        mock::set("error_at", Some(1), 1);
        let log = endings(3, order, FAR, |rank| {
            for _ in 0..3 {
                sum(rank)?;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Error::user("the device did not notice"))
        });
        let calls = by_comm(&log);
        assert_eq!(calls.len(), 3);
        for calls in calls.values() {
            assert_eq!(calls.last(), Some(&"ncclCommAbort"));
            assert!(!calls.contains(&"ncclCommFinalize"));
        }
        // A finalize that does not return is not waited for. On a busy machine it may take several worlds
        // until one gets so far within the deadline.
        let attempt = |_| {
            mock::set("finalize_delay_ms", None, 1_000_000);
            let since = Instant::now();
            let log = endings(2, order, NEAR, sum);
            assert!(since.elapsed() < FAR / 4);
            let ends = log.iter().filter(|l| l.contains("ncclCommFinalize"));
            (ends.count() == 2).then_some(log)
        };
        let log = (0..5).find_map(attempt).unwrap();
        for calls in by_comm(&log).values() {
            let end = &calls[calls.len() - 2..];
            assert_eq!(end, ["ncclCommFinalize", "ncclCommAbort"]);
        }
    }
    // Ranks that return while their GPUs hang get the error before they have left.
    mock::set("stuck_at", Some(1), 0);
    let log = endings(2, Order::Device, NEAR, sum);
    for calls in by_comm(&log).values() {
        assert_eq!(calls.last(), Some(&"ncclCommAbort"));
        assert!(!calls.contains(&"ncclCommFinalize"));
    }
}
