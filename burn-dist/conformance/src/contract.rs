//! What a collective refuses, how threads share a rank, and what the ledger counts.

use crate::{Launch, WORLDS, assert_refused, on_ranks};
use burn_dist::Result;
use burn_dist::comm::{Communicator, Dtype, Label, Op, Reduce, Span, SpanMut};

/// What a rank does after a refusal: the group must still be in step.
fn assert_works(comm: &Communicator) -> Result<()> {
    let mut ranks = [comm.rank() as u64];
    comm.all_reduce(&"after".into(), Reduce::Sum, SpanMut::of(&mut ranks))?;
    let all = comm.size() as u64;
    assert_eq!(ranks, [all * (all - 1) / 2]);
    Ok(())
}

/// Wrong lengths are refused before anything moves.
pub fn wrong_lengths_are_refused_before_anything_moves(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            // One rank is wrong and the others wait; none of them hears of it.
            if comm.rank() == world - 1 {
                let label = Label::from("unit 3");
                let rank = format!("rank {}", comm.rank());
                for len in [0, 4 * world - 1, 4 * world + 1] {
                    let mut recv = vec![7.0f32; len];
                    let sent = Span::of(&[1.0f32; 4]);
                    let refused = comm.all_gather(&label, sent, SpanMut::of(&mut recv));
                    let found = format!("found {len} f32");
                    assert_refused(refused, &["all_gather of unit 3", &rank, &found]);
                    assert!(recv.iter().all(|x| *x == 7.0));
                }
                let send = vec![1.0f32; 4 * world + 1];
                let mut recv = [7.0f32; 4];
                let (from, to) = (Span::of(&send), SpanMut::of(&mut recv));
                let refused = comm.reduce_scatter(&label, Reduce::Sum, from, to);
                let expected = format!("to send {} f32", 4 * world);
                assert_refused(refused, &["reduce_scatter of unit 3", &rank, &expected]);
                assert_eq!(recv, [7.0; 4]);
            }
            assert_works(comm)
        });
    }
}

/// Unlike types are refused.
pub fn unlike_types_are_refused(launch: &impl Launch) {
    on_ranks(launch, 2, |comm| {
        let label = "types".into();
        let (sent, mut recv) = ([1.0f32; 2], [7i32; 4]);
        let (from, to) = (Span::of(&sent), SpanMut::of(&mut recv));
        assert_refused(comm.all_gather(&label, from, to), &["f32", "i32"]);
        let (from, to) = (Span::of(&sent), SpanMut::of(&mut recv[..1]));
        let refused = comm.reduce_scatter(&label, Reduce::Sum, from, to);
        assert_refused(refused, &["f32", "i32"]);
        assert_eq!(recv, [7; 4]);
        assert_works(comm)
    });
}

/// Broken memory is refused.
pub fn broken_memory_is_refused(launch: &impl Launch) {
    on_ranks(launch, 2, |comm| {
        let label = "memory".into();
        let mut words = [0u64; 8];
        let mut memory = SpanMut::of(&mut words);
        let bytes = memory.bytes_mut();
        // Half an element at the end.
        let odd = SpanMut::new(&mut bytes[..6], Dtype::F32);
        let refused = comm.all_reduce(&label, Reduce::Sum, odd);
        assert_refused(refused, &["all_reduce of memory", "f32", "6 bytes"]);
        let odd = SpanMut::new(&mut bytes[..6], Dtype::F32);
        assert_refused(comm.broadcast(&label, 0, odd), &["f32", "6 bytes"]);
        // Whole elements, none of them where its type wants it.
        let askew = SpanMut::new(&mut bytes[1..9], Dtype::F32);
        let refused = comm.all_reduce(&label, Reduce::Sum, askew);
        assert_refused(refused, &["aligned elements of type f32"]);
        let (send, recv) = bytes.split_at_mut(16);
        let askew = Span::new(&send[1..9], Dtype::F64);
        let whole = SpanMut::new(&mut recv[..16], Dtype::F64);
        let refused = comm.all_gather(&label, askew, whole);
        assert_refused(refused, &["aligned elements of type f64"]);
        let whole = Span::new(&send[..16], Dtype::F64);
        let askew = SpanMut::new(&mut recv[4..12], Dtype::F64);
        let refused = comm.reduce_scatter(&label, Reduce::Sum, whole, askew);
        assert_refused(refused, &["aligned elements of type f64"]);
        // Nothing needs no alignment.
        let nothing = SpanMut::new(&mut [], Dtype::F64);
        comm.all_reduce(&label, Reduce::Sum, nothing)?;
        assert_works(comm)
    });
}

/// The mean of integers is refused.
pub fn the_mean_of_integers_is_refused(launch: &impl Launch) {
    for world in [1, 2] {
        on_ranks(launch, world, |comm| {
            let label = "count".into();
            let mut counts = [7i64];
            let refused = comm.all_reduce(&label, Reduce::Mean, SpanMut::of(&mut counts));
            assert_refused(refused, &["mean", "float", "i64"]);
            let (send, mut recv) = (vec![7u8; world], [7u8]);
            let (from, to) = (Span::of(&send), SpanMut::of(&mut recv));
            let refused = comm.reduce_scatter(&label, Reduce::Mean, from, to);
            assert_refused(refused, &["mean", "float", "u8"]);
            assert_eq!((counts, recv), ([7], [7]));
            assert_works(comm)
        });
    }
}

/// An unknown root is refused.
pub fn an_unknown_root_is_refused(launch: &impl Launch) {
    for world in [1, 3] {
        on_ranks(launch, world, |comm| {
            let mut buffer = [7u8];
            let refused = comm.broadcast(&"root".into(), world, SpanMut::of(&mut buffer));
            let expected = format!("a rank below {world}");
            assert_refused(refused, &["root", &expected]);
            assert_works(comm)
        });
    }
}

/// Threads of one rank take turns.
pub fn threads_of_one_rank_take_turns(launch: &impl Launch) {
    // Four threads per rank issue equal calls: it does not matter which of them are paired, but
    // each must have a collective to itself, or ranks would read memory that is gone.
    on_ranks(launch, 3, |comm| {
        let calls = || -> Result<()> {
            for _ in 0..200 {
                let mut ones = vec![1u32; 500];
                comm.all_reduce(&"ones".into(), Reduce::Sum, SpanMut::of(&mut ones))?;
                assert_eq!(ones, [3; 500]);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(calls)).collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap())
        })
    });
}

/// The ledger counts what a ring sends.
pub fn the_ledger_counts_what_a_ring_sends(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            let n = world as u64;
            let (a, b) = (Label::from("a"), Label::from("b"));
            for (label, len) in [(&a, 5), (&b, 7), (&a, 11)] {
                let mut piece = vec![1.0f32; len];
                let mut whole = vec![1.0f32; len * world];
                comm.all_gather(label, Span::of(&piece), SpanMut::of(&mut whole))?;
                let (from, to) = (Span::of(&whole), SpanMut::of(&mut piece));
                comm.reduce_scatter(label, Reduce::Mean, from, to)?;
                comm.all_reduce(label, Reduce::Max, SpanMut::of(&mut piece))?;
            }
            comm.broadcast(&b, 0, SpanMut::of(&mut [0u64; 3]))?;
            comm.barrier(&b)?;
            // A refused call is none.
            let _ = comm.all_gather(&a, Span::of(&[1u8]), SpanMut::of(&mut [0u8; 100]));
            let ledger = comm.ledger();
            let entry = |op, unit| {
                let entry = ledger.of(op, unit);
                (entry.calls, entry.bytes)
            };
            if world == 1 {
                assert_eq!(ledger.entries(), []);
                return Ok(());
            }
            let piece = |len: u64| (n - 1) * 4 * len;
            for op in [Op::AllGather, Op::ReduceScatter] {
                assert_eq!(entry(op, "a"), (2, piece(5) + piece(11)));
                assert_eq!(entry(op, "b"), (1, piece(7)));
                assert_eq!(ledger.total(op).bytes, piece(23));
            }
            let twice = |len: u64| 2 * (n - 1) * 4 * len / n;
            assert_eq!(entry(Op::AllReduce, "a"), (2, twice(5) + twice(11)));
            assert_eq!(entry(Op::AllReduce, "b"), (1, twice(7)));
            assert_eq!(entry(Op::Broadcast, "b"), (1, 24));
            assert_eq!(entry(Op::Barrier, "b"), (1, 0));
            assert_eq!(ledger.all().calls, 11);
            assert!(!ledger.all().time.is_zero());
            // A group that is split off writes to the same ledger; splitting itself is free.
            let pair = comm.split(comm.rank() / 2, 0)?;
            let shared = u64::from(pair.size() == 2);
            pair.barrier(&a)?;
            assert_eq!(entry(Op::Barrier, "a"), (shared, 0));
            assert_eq!(entry(Op::Split, "group"), (0, 0));
            Ok(())
        });
    }
}

/// The ledger remembers the order.
pub fn the_ledger_remembers_the_order(launch: &impl Launch) {
    on_ranks(launch, 2, |comm| {
        comm.barrier(&"start".into())?;
        assert_eq!(comm.ledger().order(), [], "only from a reset on");
        comm.ledger().reset();
        assert_eq!(comm.ledger().all().calls, 0);
        let mut buffer = [1.0f64];
        comm.broadcast(&"x".into(), 1, SpanMut::of(&mut buffer))?;
        comm.all_reduce(&"y".into(), Reduce::Sum, SpanMut::of(&mut buffer))?;
        comm.barrier(&"x".into())?;
        let expected = [
            (Op::Broadcast, "x"),
            (Op::AllReduce, "y"),
            (Op::Barrier, "x"),
        ];
        assert_eq!(
            comm.ledger().order(),
            expected.map(|(op, unit)| (op, unit.into()))
        );
        Ok(())
    });
}
