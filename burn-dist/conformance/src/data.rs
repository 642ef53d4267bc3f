//! Every rank receives what it should: each collective, type, reduction and awkward length.

use crate::sample::{Sample, reduced, samples};
use crate::{Launch, WORLDS, every_type, on_ranks};
use burn_dist::Result;
use burn_dist::comm::{Communicator, Element, Label, Reduce, Span, SpanMut};
use half::bf16;
use std::time::{Duration, UNIX_EPOCH};

/// Nothing, one element, fewer elements than ranks, primes.
const LENGTHS: [usize; 5] = [0, 1, 3, 7, 1009];
const LARGE: usize = 1 << 20;

/// A buffer whose content must be replaced.
fn stale<T: Element>(len: usize) -> Vec<T> {
    let mut buffer = vec![T::zeroed(); len];
    SpanMut::of(&mut buffer).bytes_mut().fill(0x5a);
    buffer
}

fn label<T: Element>(len: usize) -> Label {
    Label::from("data").with_detail(format!("{len} {}", T::DTYPE))
}

fn all_gather<T: Sample>(comm: &Communicator, len: usize) -> Result<()> {
    let send = samples::<T>(comm.rank(), 0, len);
    let mut recv = stale::<T>(len * comm.size());
    comm.all_gather(&label::<T>(len), Span::of(&send), SpanMut::of(&mut recv))?;
    for rank in 0..comm.size() {
        assert_eq!(recv[rank * len..(rank + 1) * len], samples(rank, 0, len));
    }
    assert_eq!(send, samples(comm.rank(), 0, len), "what was sent changed");
    Ok(())
}

fn reduce_scatter<T: Sample>(comm: &Communicator, len: usize) -> Result<()> {
    for op in T::REDUCTIONS {
        let send = samples::<T>(comm.rank(), 0, len * comm.size());
        let mut recv = stale::<T>(len);
        let (from, to) = (Span::of(&send), SpanMut::of(&mut recv));
        comm.reduce_scatter(&label::<T>(len), *op, from, to)?;
        let start = comm.rank() * len;
        assert_eq!(
            recv,
            reduced(*op, comm.size(), start, start + len),
            "{op:?}"
        );
        assert_eq!(send, samples(comm.rank(), 0, len * comm.size()));
    }
    Ok(())
}

fn all_reduce<T: Sample>(comm: &Communicator, len: usize) -> Result<()> {
    for op in T::REDUCTIONS {
        let mut buffer = samples::<T>(comm.rank(), 0, len);
        comm.all_reduce(&label::<T>(len), *op, SpanMut::of(&mut buffer))?;
        assert_eq!(buffer, reduced(*op, comm.size(), 0, len), "{op:?}");
    }
    Ok(())
}

fn broadcast<T: Sample>(comm: &Communicator, len: usize) -> Result<()> {
    for root in 0..comm.size() {
        let mut buffer = if comm.rank() == root {
            samples::<T>(root, 0, len)
        } else {
            stale(len)
        };
        comm.broadcast(&label::<T>(len), root, SpanMut::of(&mut buffer))?;
        assert_eq!(buffer, samples(root, 0, len), "from rank {root}");
    }
    Ok(())
}

/// All gather concatenates in rank order.
pub fn all_gather_concatenates_in_rank_order(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            for len in LENGTHS {
                every_type!(all_gather(comm, len));
            }
            Ok(())
        });
    }
}

/// Reduce scatter leaves each rank its chunk.
pub fn reduce_scatter_leaves_each_rank_its_chunk(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            for len in LENGTHS {
                every_type!(reduce_scatter(comm, len));
            }
            Ok(())
        });
    }
}

/// All reduce gives every rank the reduction.
pub fn all_reduce_gives_every_rank_the_reduction(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            for len in LENGTHS {
                every_type!(all_reduce(comm, len));
            }
            Ok(())
        });
    }
}

/// Broadcast copies the root.
pub fn broadcast_copies_the_root(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            for len in LENGTHS {
                every_type!(broadcast(comm, len));
            }
            Ok(())
        });
    }
}

/// Barrier waits for everybody.
pub fn barrier_waits_for_everybody(launch: &impl Launch) {
    // The clock is what ranks share, whether they are threads or processes of one host.
    let now = || UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            for turn in 1..=20 {
                // Each time another rank is the last one.
                if turn % world == comm.rank() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                let came = now();
                comm.barrier(&"in".into())?;
                let mine = [came, now()];
                let mut all = vec![0u64; 2 * world];
                comm.all_gather(&"times".into(), Span::of(&mine), SpanMut::of(&mut all))?;
                let last = all.iter().step_by(2).max();
                let first = all.iter().skip(1).step_by(2).min();
                assert!(
                    last <= first,
                    "rank went on at {first:?}, one came at {last:?}"
                );
            }
            Ok(())
        });
    }
}

/// Large buffers arrive whole.
pub fn large_buffers_arrive_whole(launch: &impl Launch) {
    for world in [2, 3, 4, 5] {
        on_ranks(launch, world, |comm| {
            all_gather::<f32>(comm, LARGE)?;
            reduce_scatter::<f32>(comm, LARGE)?;
            // Cut unevenly, and in more than one portion.
            all_reduce::<f32>(comm, 2 * LARGE + 1)?;
            all_reduce::<bf16>(comm, LARGE + 1)?;
            broadcast::<u8>(comm, LARGE)
        });
    }
}

/// A world of 128 ranks works.
pub fn a_world_of_128_ranks_works(launch: &impl Launch) {
    on_ranks(launch, 128, |comm| {
        for len in [1, 131] {
            all_gather::<f32>(comm, len)?;
            reduce_scatter::<bf16>(comm, len)?;
            all_reduce::<i64>(comm, len)?;
        }
        let mut one = [comm.rank() as u64];
        comm.broadcast(&"one".into(), 127, SpanMut::of(&mut one))?;
        assert_eq!(one, [127]);
        let eight = comm.split(comm.rank() / 8, comm.rank())?;
        let mut count = [1u64];
        eight.all_reduce(&"count".into(), Reduce::Sum, SpanMut::of(&mut count))?;
        assert_eq!(count, [8]);
        comm.barrier(&"end".into())
    });
}
