//! Results of every collective, with the host or the device waiting.

use crate::memory::{buffer, read, write};
use crate::mock;
use crate::ranks::{FAR, ORDERS, Rank, guarded, options, run, succeed};
use burn_dist::comm::{Arrival, DeviceBuffer, Label, Order, Parts, Reduce};
use burn_dist::{Error, Result};
use burn_dist_conformance::sample::{Sample, reduced, samples};
use burn_dist_conformance::{Body, every_type, suite};
use std::sync::mpsc::channel;

/// What the host's memory goes through is the host's engine.
pub(crate) fn conformance_suite() {
    let launch = |ranks: usize, body: Body<'_>| -> Vec<Result<()>> {
        use burn_dist::comm::nccl::Nccl;
        use burn_dist::comm::{Communicator, Engine, local};
        std::thread::scope(|scope| {
            let rank = |engine: local::Local| {
                scope.spawn(move || {
                    let rank = engine.rank();
                    let options = options(Order::Host, FAR);
                    let nccl = Nccl::new(std::sync::Arc::new(engine), rank, options)?;
                    let comm = Communicator::new(nccl);
                    let result = guarded(|| body(&comm));
                    match &result {
                        Ok(()) => comm.leave(),
                        Err(error) => comm.abort(error.clone()),
                    }
                    result
                })
            };
            let engines = local::ranks(ranks, 1, FAR).into_iter();
            let running: Vec<_> = engines.map(rank).collect();
            running.into_iter().map(|t| t.join().unwrap()).collect()
        })
    };
    let checks = suite!(table: launch);
    println!("- {} checks of the host's collectives", checks.len());
    for (_, check) in checks {
        check();
    }
    mock::assert_clean();
    assert!(mock::log().is_empty(), "NCCL moved what is the host's");
}

/// A kernel writes, a collective moves, a kernel reads.
fn through<T: Sample>(
    rank: &Rank,
    filled: &DeviceBuffer,
    from: usize,
    elements: Vec<T>,
    collective: impl FnOnce() -> Result<Arrival>,
    result: &DeviceBuffer,
    expected: Vec<T>,
) -> Result<()> {
    let target = filled.clone();
    rank.compute.run(move || write(&target, from, &elements));
    if rank.device().order() == Order::Host {
        rank.compute.synchronize();
    }
    collective()?.wait()?;
    let (result, (reply, found)) = (result.clone(), channel());
    rank.compute.run(move || {
        let _ = reply.send(read::<T>(&result));
    });
    assert_eq!(found.recv().unwrap(), expected);
    Ok(())
}

/// Every operation on `len` elements a rank.
fn operations<T: Sample>(rank: &Rank, len: usize) -> Result<()> {
    let (me, size, device) = (rank.number(), rank.comm.size(), rank.device());
    let label = Label::from("unit");
    let whole = buffer::<T>(len * size);
    let all: Vec<T> = (0..size).flat_map(|r| samples(r, 0, len)).collect();
    let mine = samples(me, 0, len);
    let gather = || device.all_gather_in_place(&label, &whole);
    through(rank, &whole, me * len, mine, gather, &whole, all)?;
    for op in T::REDUCTIONS {
        let (send, recv) = (buffer::<T>(len * size), buffer::<T>(len));
        let sent = samples::<T>(me, 0, len * size);
        let expected = reduced(*op, size, me * len, (me + 1) * len);
        let scatter = || device.reduce_scatter(&label, *op, &send, &recv);
        through(rank, &send, 0, sent, scatter, &recv, expected)?;
        let both = buffer::<T>(len);
        let (sent, expected) = (samples::<T>(me, 0, len), reduced::<T>(*op, size, 0, len));
        let reduce = || device.all_reduce(&label, *op, &both);
        through(rank, &both, 0, sent, reduce, &both, expected)?;
    }
    let root = size - 1;
    let copy = buffer::<T>(len);
    let (sent, expected) = (samples::<T>(me, 0, len), samples(root, 0, len));
    let broadcast = || device.broadcast(&label, root, &copy);
    through(rank, &copy, 0, sent, broadcast, &copy, expected)?;
    // Some pairs exchange nothing, and with one rank of two some ranks do not.
    let pairs = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
    let counts: Vec<usize> = pairs
        .map(|(from, to)| len * ((from + 2 * to) % 3))
        .collect();
    let parts = Parts::new(&counts, size);
    let (send, recv) = (buffer::<T>(parts.sent(me)), buffer::<T>(parts.received(me)));
    let sent = samples(me, 0, parts.sent(me));
    let part = |from| {
        let range = parts.in_sent(from, me);
        samples::<T>(from, range.start, range.end)
    };
    let expected = (0..size).flat_map(part).collect();
    let exchange = || device.all_to_all(&label, &counts, &send, &recv);
    through(rank, &send, 0, sent, exchange, &recv, expected)
}

pub(crate) fn every_operation_and_type() {
    for order in ORDERS {
        for world in 1..=8 {
            succeed(world, order, |rank| {
                for len in [0, 1, 7, 1013] {
                    every_type!(operations(rank, len));
                }
                assert_eq!(rank.device().order(), order);
                Ok(())
            });
        }
    }
}

/// Rows and columns of a mesh, and a group that never uses its GPUs.
pub(crate) fn groups() {
    for order in ORDERS {
        mock::set("delay_us", None, 300);
        succeed(6, order, |rank| {
            let me = rank.number();
            let row = rank.comm.split(me / 3, me)?;
            let column = rank.comm.split(me % 3, me)?;
            let _unused = rank.comm.split(0, 0)?;
            for turn in 0..10 {
                let sum = buffer::<i64>(3);
                let target = sum.clone();
                let mine = (turn * 100 + me) as i64;
                rank.compute.run(move || write(&target, 0, &[mine; 3]));
                rank.compute.synchronize();
                for group in [&row, &column] {
                    let device = group.on_device().unwrap();
                    let arrival = device.all_reduce(&"sum".into(), Reduce::Sum, &sum)?;
                    arrival.wait()?;
                }
                let (reply, found) = channel();
                rank.compute
                    .run(move || reply.send(read::<i64>(&sum)).unwrap());
                let total = 6 * turn as i64 * 100 + 15;
                assert_eq!(found.recv().unwrap(), [total; 3]);
            }
            assert_eq!(rank.comm.ledger().entries().len(), 1);
            let made = mock::log();
            let made = made.iter().filter(|l| l.contains("InitRank"));
            assert!(
                made.count() <= 12,
                "a group was connected that moves nothing"
            );
            Ok(())
        });
    }
}

/// Connecting and launching may leave work in progress.
pub(crate) fn slow_starts() {
    for order in ORDERS {
        mock::set("init_delay_ms", None, 30);
        mock::set("launch_delay_us", None, 700);
        mock::set("finalize_delay_ms", None, 20);
        succeed(3, order, |rank| {
            for len in [1, 50] {
                operations::<f32>(rank, len)?;
            }
            Ok(())
        });
    }
}

/// A call that is refused before any byte moves does not affect later ones.
pub(crate) fn refused() {
    let results = run(2, FAR, options(Order::Host, FAR), |rank| {
        let (device, label) = (rank.device(), Label::from("unit 3"));
        if rank.number() == 1 {
            let refusals = [
                device.all_gather_in_place(&label, &buffer::<f32>(3)),
                device.all_reduce(&label, Reduce::Mean, &buffer::<i32>(2)),
                device.reduce_scatter(&label, Reduce::Sum, &buffer::<f32>(5), &buffer::<f32>(2)),
                device.broadcast(&label, 2, &buffer::<f32>(2)),
            ];
            for refused in refusals {
                let error = refused.unwrap_err();
                assert!(matches!(error, Error::Config { .. }), "{error}");
            }
        }
        operations::<f64>(rank, 5)
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}
