//! Long runs of random collectives, ranks out of step with each other: what races would show in.

use crate::{Launch, on_ranks};
use burn_dist::comm::{Communicator, Reduce, Span, SpanMut};
use burn_dist::{Error, Result};
use std::time::Duration;

/// Numbers that are equal on all ranks that start with the same one (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Issues `turns` collectives at random, each rank in its own time, and checks every result.
fn wander(comm: &Communicator, seed: u64, turns: usize) -> Result<()> {
    let (rank, size) = (comm.rank(), comm.size());
    let value = |turn: usize, rank: usize, i: usize| (turn * 31 + rank * 7 + i) as i64;
    let mut plan = Numbers(seed);
    let mut dawdle = Numbers(seed + 1 + rank as u64);
    for turn in 0..turns {
        match dawdle.below(20) {
            0 => std::thread::sleep(Duration::from_micros(dawdle.below(300))),
            1 => std::thread::yield_now(),
            _ => {}
        }
        let len = plan.below(50) as usize;
        let label = "wander".into();
        let total = |i: usize| -> i64 { (0..size).map(|r| value(turn, r, i)).sum() };
        let mine = |len: usize| -> Vec<i64> { (0..len).map(|i| value(turn, rank, i)).collect() };
        match plan.below(5) {
            0 => {
                let mut all = vec![0; len * size];
                comm.all_gather(&label, Span::of(&mine(len)), SpanMut::of(&mut all))?;
                let cell = |at: usize| value(turn, at / len, at % len);
                assert!(all.iter().enumerate().all(|(at, x)| *x == cell(at)));
            }
            1 => {
                let mut chunk = vec![0; len];
                let send = mine(len * size);
                let to = SpanMut::of(&mut chunk);
                comm.reduce_scatter(&label, Reduce::Sum, Span::of(&send), to)?;
                let cell = |i: usize| total(rank * len + i);
                assert!(chunk.iter().enumerate().all(|(i, x)| *x == cell(i)));
            }
            2 => {
                let mut buffer = mine(len);
                comm.all_reduce(&label, Reduce::Sum, SpanMut::of(&mut buffer))?;
                assert!(buffer.iter().enumerate().all(|(i, x)| *x == total(i)));
            }
            3 => {
                let root = plan.below(size as u64) as usize;
                let mut buffer = mine(len);
                comm.broadcast(&label, root, SpanMut::of(&mut buffer))?;
                let cell = |i: usize| value(turn, root, i);
                assert!(buffer.iter().enumerate().all(|(i, x)| *x == cell(i)));
            }
            _ => comm.barrier(&label)?,
        }
    }
    Ok(())
}

/// Thousands of collectives at random all come out right.
pub fn thousands_of_collectives_at_random_all_come_out_right(launch: &impl Launch) {
    on_ranks(launch, 4, |comm| wander(comm, 1, 2000));
}

/// Worlds of one process do not meet.
pub fn worlds_of_one_process_do_not_meet(launch: &impl Launch) {
    // Some of them fail while the others work.
    let world = |seed: usize| {
        let ranks = 2 + seed % 3;
        let fails = seed.is_multiple_of(4);
        let cause = Error::user(format!("world {seed}"));
        let results = launch.run(ranks, &|comm: &Communicator| {
            wander(comm, seed as u64, 300)?;
            if fails && comm.rank() == 1 {
                return Err(cause.clone());
            }
            wander(comm, seed as u64, 100)
        });
        assert!(results.iter().all(|r| r.is_err() == fails), "{results:?}");
        if fails {
            assert_eq!(results[1], Err(cause));
        }
    };
    let world = &world;
    std::thread::scope(|scope| {
        for seed in 0..12 {
            scope.spawn(move || world(seed));
        }
    });
}
