//! Failures of NCCL, of the driver and of ranks: every rank ends in time with the same cause.

use crate::memory::buffer;
use crate::mock;
use crate::ranks::{FAR, NEAR, ORDERS, Rank, fail, options, run};
use burn_dist::comm::{OnDevice, Order, Reduce, SpanMut};
use burn_dist::{Error, Result};
use std::time::{Duration, Instant};

/// A step: a collective, and a read of its result, which never returns from a device that hangs.
fn step(rank: &Rank) -> Result<()> {
    let sum = buffer::<f32>(10);
    let arrival = rank
        .device()
        .all_reduce(&"step".into(), Reduce::Sum, &sum)?;
    arrival.wait()?;
    rank.compute.synchronize();
    Ok(())
}

fn steps(rank: &Rank) -> Result<()> {
    (0..5).try_for_each(|_| step(rank))
}

/// Asserts that all ranks end long before `FAR`, with rank `peer`'s failure, whose text has all of
/// `words`.
fn fails_with(peer: Option<usize>, deadline: Duration, order: Order, words: &[&str]) {
    let since = Instant::now();
    let error = fail(3, FAR, options(order, deadline), steps);
    assert!(since.elapsed() < FAR / 4, "{:?}", since.elapsed());
    let Error::PeerFailed { peer: named, cause } = &error else {
        panic!("{error:?}")
    };
    assert!(peer.is_none_or(|peer| peer == *named), "{error}");
    for word in words {
        assert!(cause.contains(word), "{cause:?} should mention {word:?}");
    }
}

pub(crate) fn mismatch() {
    for order in ORDERS {
        let error = fail(3, FAR, options(order, FAR), |rank| {
            let (device, data) = (rank.device(), buffer::<f32>(6));
            match rank.number() {
                1 => device
                    .all_reduce(&"other".into(), Reduce::Sum, &data)?
                    .wait()?,
                _ => device.all_gather_in_place(&"same".into(), &data)?.wait()?,
            }
            Ok(())
        });
        let text = error.to_string();
        let is_named = matches!(
            error,
            Error::Mismatch {
                rank: 0,
                peer: 1,
                ..
            }
        );
        assert!(
            is_named && text.contains("all_reduce(Sum) of other #0"),
            "{text}"
        );
        assert!(text.contains("on devices"), "{text}");
    }
}

/// One rank's memory is on its host, the other's on its GPU.
pub(crate) fn host_is_not_device() {
    let error = fail(2, FAR, options(Order::Host, FAR), |rank| {
        let label = "unit".into();
        match rank.number() {
            0 => {
                let mut data = [0.0f32; 6];
                rank.comm
                    .all_reduce(&label, Reduce::Sum, SpanMut::of(&mut data))
            }
            _ => {
                let data = buffer::<f32>(6);
                rank.device().all_reduce(&label, Reduce::Sum, &data)?.wait()
            }
        }
    });
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}

/// A rank that does not call is missed by the host's engine.
pub(crate) fn absent() {
    // Longer than a busy machine delays a rank that does call.
    let deadline = Duration::from_millis(2500);
    for order in ORDERS {
        let error = fail(3, deadline, options(order, FAR), |rank| {
            step(rank)?;
            let since = Instant::now();
            while rank.number() == 2 && rank.comm.fault().is_none() && since.elapsed() < FAR {
                std::thread::sleep(Duration::from_millis(5));
            }
            step(rank)
        });
        let Error::Timeout { missing, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(missing, &[2]);
    }
}

/// A collective begins everywhere and never ends.
pub(crate) fn stuck() {
    for order in ORDERS {
        // The first: on a busy machine an earlier one might not be done in time either.
        mock::set("stuck_at", Some(1), 0);
        let words = ["all_reduce(Sum) of step #0", "not done after 300ms"];
        fails_with(None, NEAR, order, &words);
    }
}

/// An aborted collective ends on the device too, with undefined elements.
pub(crate) fn aborted_is_not_done() {
    mock::set("stuck_at", Some(1), 0);
    fail(2, FAR, options(Order::Device, NEAR), |rank| {
        let sum = buffer::<f32>(10);
        let arrival = rank.device().all_reduce(&"sum".into(), Reduce::Sum, &sum)?;
        std::thread::sleep(NEAR * 2);
        arrival.wait()
    });
}

/// A collective is aborted after its wait, so that later work of the device reads undefined elements.
pub(crate) fn aborted_behind_the_wait() {
    mock::set("stuck_at", Some(1), 0);
    fail(2, FAR, options(Order::Device, NEAR), |rank| {
        let sum = buffer::<f32>(10);
        let arrival = rank.device().all_reduce(&"sum".into(), Reduce::Sum, &sum)?;
        arrival.wait()?;
        rank.compute.synchronize();
        rank.comm.fault().map_or(Ok(()), Err)
    });
}

/// A group fails while its collectives wait in the stream for those of another group, which hang: both must be
/// ended.
pub(crate) fn stuck_behind_another() {
    mock::set("stuck_at", Some(1), 0);
    mock::set("error_at", Some(1), 1);
    let since = Instant::now();
    fail(2, FAR, options(Order::Device, FAR), |rank| {
        let group = rank.comm.split(0, 0)?;
        let sums: [_; 3] = std::array::from_fn(|_| buffer::<f32>(10));
        let sum = |on: OnDevice<'_>, at: usize| on.all_reduce(&"s".into(), Reduce::Sum, &sums[at]);
        let first = sum(rank.device(), 0)?;
        sum(group.on_device().unwrap(), 1)?.wait()?;
        let last = sum(group.on_device().unwrap(), 2)?;
        std::thread::sleep(NEAR);
        last.wait()?;
        first.wait()
    });
    // An abort that does not return is abandoned after 5 s.
    let most = Duration::from_millis(4500);
    assert!(since.elapsed() < most, "{:?}", since.elapsed());
}

/// The watchdog's thread notices the failure, whatever the ranks do meanwhile.
pub(crate) fn noticed_elsewhere() {
    for round in 0..50 {
        mock::set("error_at", Some(1), 1 + round % 3);
        let error = fail(2, FAR, options(Order::Device, FAR), |rank| {
            let sum = buffer::<f32>(10);
            let mut arrivals = Vec::new();
            loop {
                let device = rank.device();
                arrivals.push(device.all_reduce(&"sum".into(), Reduce::Sum, &sum)?);
            }
        });
        assert!(
            matches!(error, Error::PeerFailed { peer: 1, .. }),
            "{error}"
        );
    }
}

pub(crate) fn asynchronous_error() {
    for order in ORDERS {
        mock::set("error_at", Some(1), 2);
        let words = [
            "all_reduce(Sum) of step #2",
            "ncclRemoteError (6)",
            "remote process exited or there was a network error",
            "the mock was asked to",
        ];
        fails_with(Some(1), FAR, order, &words);
    }
}

/// One rank's failure reaches those that wait for their GPUs, in another group.
pub(crate) fn abort() {
    for order in ORDERS {
        mock::set("stuck_at", Some(1), 0);
        let (since, cause) = (Instant::now(), Error::user("no more disk"));
        let error = fail(3, FAR, options(order, FAR), |rank| {
            let group = rank.comm.split(rank.number() / 2, 0)?;
            if rank.number() == 2 {
                std::thread::sleep(Duration::from_millis(50));
                rank.comm.abort(cause.clone());
                return step(rank);
            }
            let (device, sum) = (group.on_device().unwrap(), buffer::<f32>(10));
            device
                .all_reduce(&"pair".into(), Reduce::Sum, &sum)?
                .wait()?;
            rank.compute.synchronize();
            rank.comm.barrier(&"after".into())
        });
        assert_eq!(error, cause);
        assert!(since.elapsed() < FAR / 4);
    }
}

pub(crate) fn a_rank_fails_elsewhere() {
    for order in ORDERS {
        let results = run(3, FAR, options(order, FAR), |rank| {
            step(rank)?;
            assert_ne!(rank.number(), 1, "no more coffee");
            steps(rank)
        });
        assert_eq!(results[0], results[2]);
        let text = results[0].clone().unwrap_err().to_string();
        assert!(text.contains("no more coffee"), "{text}");
    }
}

pub(crate) fn refused_by_nccl() {
    for order in ORDERS {
        mock::set("refuse_at", Some(2), 1);
        let words = ["ncclAllReduce returned ncclInternalError (3): internal error"];
        fails_with(Some(2), FAR, order, &words);
    }
}

pub(crate) fn driver_fails() {
    for order in ORDERS {
        mock::set("launch_failed", None, 1);
        let words = ["cuEventQuery returned CUDA_ERROR_LAUNCH_FAILED (719)"];
        fails_with(None, FAR, order, &words);
    }
}

pub(crate) fn connecting() {
    for order in ORDERS {
        mock::set("init_never", Some(1), 1);
        fails_with(None, NEAR, order, &["step #0", "not done after 300ms"]);
        mock::set("init_refused", Some(1), 1);
        let words = ["ncclCommInitRankConfig returned ncclInvalidUsage (5)"];
        fails_with(Some(1), FAR, order, &words);
        mock::set("no_id", None, 1);
        let words = ["ncclGetUniqueId returned ncclSystemError (2)"];
        fails_with(Some(0), FAR, order, &words);
    }
}

/// After a failure every call fails with that cause.
pub(crate) fn first_cause_wins() {
    for order in ORDERS {
        mock::set("error_at", Some(0), 1);
        let error = fail(2, FAR, options(order, FAR), |rank| {
            let group = rank.comm.split(0, 0)?;
            let first = steps(rank).unwrap_err();
            rank.comm.abort(Error::user("later"));
            let (device, sum) = (group.on_device().unwrap(), buffer::<f32>(10));
            let others = [
                step(rank),
                rank.comm.barrier(&"host".into()),
                device
                    .all_reduce(&"group".into(), Reduce::Sum, &sum)
                    .map(drop),
            ];
            assert!(others.iter().all(|other| *other == Err(first.clone())));
            Err(first)
        });
        assert!(
            matches!(error, Error::PeerFailed { peer: 0, .. }),
            "{error}"
        );
    }
}
