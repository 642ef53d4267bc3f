//! Order of collectives and kernels on the device, and lifetime of their buffers.
//!
//! Kernels and collectives of the mock take random times, and freed memory is overwritten at once, so that each
//! missing wait shows as a wrong number.

use crate::memory::{buffer, read, write};
use crate::mock;
use crate::ranks::{Rank, succeed};
use burn_dist::Result;
use burn_dist::comm::{Arrival, DeviceBuffer, Order, Reduce};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Elements of each piece: few, so that memory is reused at once.
const LEN: usize = 8;

fn value(turn: usize, rank: usize, index: usize) -> i64 {
    (turn * 10_000 + rank * 100 + index) as i64
}

/// A slow kernel that writes.
fn fill(rank: &Rank, buffer: &DeviceBuffer, from: usize, elements: Vec<i64>, slow: u64) {
    let buffer = buffer.clone();
    rank.compute.run(move || {
        std::thread::sleep(Duration::from_micros(slow));
        write(&buffer, from, &elements);
    });
}

/// A kernel that reads.
fn look(rank: &Rank, buffer: DeviceBuffer) -> Receiver<Vec<i64>> {
    let (reply, found) = channel();
    rank.compute.run(move || {
        let _ = reply.send(read(&buffer));
    });
    found
}

fn gathered(turn: usize, size: usize) -> Vec<i64> {
    let of = |rank| (0..LEN).map(move |i| value(turn, rank, i));
    (0..size).flat_map(of).collect()
}

fn scattered(turn: usize, size: usize, me: usize) -> Vec<i64> {
    let sum = |i| (0..size).map(|rank| value(turn, rank, me * LEN + i)).sum();
    (0..LEN).map(sum).collect()
}

/// A gather under way.
fn gather(rank: &Rank, turn: usize) -> Result<(DeviceBuffer, Arrival)> {
    let (me, whole) = (rank.number(), buffer::<i64>(LEN * rank.comm.size()));
    let mine = (0..LEN).map(|i| value(turn, me, i)).collect();
    fill(rank, &whole, me * LEN, mine, (turn * 37 % 150) as u64);
    let arrival = rank.device().all_gather_in_place(&"unit".into(), &whole)?;
    Ok((whole, arrival))
}

/// Gathers ahead of their use, reductions whose input is freed at once, and gathers that are not used.
fn train(rank: &Rank, turns: usize) -> Result<()> {
    let (me, size) = (rank.number(), rank.comm.size());
    let mut ahead = VecDeque::new();
    let mut checks = Vec::new();
    for turn in 0..turns {
        ahead.push_back((turn, gather(rank, turn)?));
        if ahead.len() > 2
            && let Some((of, (whole, arrival))) = ahead.pop_front()
        {
            match turn % 5 {
                0 => drop((whole, arrival)),
                _ => {
                    arrival.wait()?;
                    checks.push((look(rank, whole), gathered(of, size)));
                }
            }
        }
        let (send, recv) = (buffer::<i64>(LEN * size), buffer::<i64>(LEN));
        let sent = (0..LEN * size).map(|i| value(turn, me, i)).collect();
        fill(rank, &send, 0, sent, (turn * 53 % 120) as u64);
        let device = rank.device();
        let arrival = device.reduce_scatter(&"unit".into(), Reduce::Sum, &send, &recv)?;
        drop(send);
        if turn % 7 == 3 {
            continue;
        }
        arrival.wait()?;
        checks.push((look(rank, recv), scattered(turn, size, me)));
    }
    drop(ahead);
    for (at, (found, expected)) in checks.into_iter().enumerate() {
        assert_eq!(found.recv().unwrap(), expected, "check {at} on rank {me}");
    }
    Ok(())
}

pub(crate) fn the_device_orders() {
    for delay in [0, 100, 1000] {
        for world in [1, 2, 3, 4] {
            mock::set("delay_us", None, delay);
            // One rank's collectives come late.
            mock::set("delay_us", Some(world - 1), 2 * delay);
            succeed(world, Order::Device, |rank| train(rank, 150));
        }
    }
}

/// The caller drops everything while the device has not even begun.
pub(crate) fn memory_stays_until_the_device_is_done() {
    mock::set("delay_us", None, 2000);
    succeed(2, Order::Device, |rank| {
        for turn in 0..100 {
            let guess = gather(rank, turn)?;
            // The kernel has written, so that from here on only the collective needs the memory.
            rank.compute.synchronize();
            drop(guess);
            let other = buffer::<i64>(LEN * 2);
            fill(rank, &other, 0, vec![turn as i64; LEN * 2], 0);
            let (whole, arrival) = gather(rank, turn + 1000)?;
            arrival.wait()?;
            let (kept, whole) = (look(rank, other), look(rank, whole));
            assert_eq!(kept.recv().unwrap(), vec![turn as i64; LEN * 2]);
            assert_eq!(whole.recv().unwrap(), gathered(turn + 1000, 2));
        }
        Ok(())
    });
}
