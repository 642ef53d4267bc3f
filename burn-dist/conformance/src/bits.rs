//! Results repeat bit for bit, because reductions have one defined order and one rounding.

use crate::sample::scramble;
use crate::{Launch, on_ranks};
use burn_dist::Result;
use burn_dist::comm::{Communicator, Element, Reduce, Span, SpanMut};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A number of some size whose sums are never exact.
fn rough(rank: usize, index: usize) -> f64 {
    let z = scramble(rank, index);
    let size = f64::from((z >> 40) as u8 % 16) - 8.0;
    ((z % 1_000_003) as f64 / 1_000_003.0 - 0.5) * size.exp2()
}

/// The bytes of an all-reduce and of a reduce-scatter of `len` rough numbers per rank.
fn reductions<T: Element>(
    comm: &Communicator,
    op: Reduce,
    len: usize,
    narrow: fn(f64) -> T,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let send: Vec<T> = (0..len * comm.size())
        .map(|index| narrow(rough(comm.rank(), index)))
        .collect();
    let mut all = send.clone();
    comm.all_reduce(&"all".into(), op, SpanMut::of(&mut all))?;
    let mut mine = vec![T::zeroed(); len];
    let (from, to) = (Span::of(&send), SpanMut::of(&mut mine));
    comm.reduce_scatter(&"mine".into(), op, from, to)?;
    Ok((
        Span::of(&all).bytes().into(),
        Span::of(&mine).bytes().into(),
    ))
}

/// Results repeat bit for bit.
pub fn results_repeat_bit_for_bit(launch: &impl Launch) {
    const LEN: usize = 1013;
    for world in [2, 3, 4, 8] {
        let mut runs = Vec::new();
        for _ in 0..3 {
            // Of the ranks in this process; a launcher may run the others elsewhere.
            let seen = Mutex::new(BTreeMap::new());
            on_ranks(launch, world, |comm| {
                let mut all = Vec::new();
                for op in [Reduce::Sum, Reduce::Mean, Reduce::Max] {
                    for (whole, mine) in [
                        reductions(comm, op, LEN, |x| x)?,
                        reductions(comm, op, LEN, |x| x as f32)?,
                        reductions(comm, op, LEN, f16::from_f64)?,
                        reductions(comm, op, LEN, bf16::from_f64)?,
                    ] {
                        let start = comm.rank() * mine.len();
                        assert_eq!(whole[start..start + mine.len()], mine);
                        all.extend(whole);
                    }
                }
                let mut every = vec![0; all.len() * world];
                let label = "every".into();
                comm.all_gather(&label, Span::of(&all), SpanMut::of(&mut every))?;
                assert!(every.chunks(all.len()).all(|other| other == all));
                seen.lock().unwrap().insert(comm.rank(), all);
                Ok(())
            });
            runs.push(seen.into_inner().unwrap());
        }
        assert!(runs.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

/// Reductions add in rank order.
pub fn reductions_add_in_rank_order(launch: &impl Launch) {
    // Few elements, and so many that an engine may take another way.
    for (world, len) in [
        (3, 257),
        (4, 257),
        (8, 257),
        (3, 40_009),
        (4, 40_009),
        (5, 20_011),
    ] {
        let in_order = |index: usize| -> f32 {
            let values = (0..world).map(|rank| rough(rank, index) as f32);
            values.reduce(|sum, x| sum + x).unwrap()
        };
        on_ranks(launch, world, |comm| {
            let (all, _) = reductions(comm, Reduce::Sum, len, |x| x as f32)?;
            let expected: Vec<f32> = (0..len * world).map(in_order).collect();
            assert_eq!(all, Span::of(&expected).bytes());
            let (all, _) = reductions(comm, Reduce::Mean, len, |x| x as f32)?;
            let expected: Vec<f32> = expected.iter().map(|sum| sum / world as f32).collect();
            assert_eq!(all, Span::of(&expected).bytes());
            Ok(())
        });
    }
}

/// Half precision is rounded once.
pub fn half_precision_is_rounded_once(launch: &impl Launch) {
    on_ranks(launch, 4, |comm| {
        // 2049 is no f16 and 257 no bf16: sums in these types would lose every one of the ones.
        let first = |large: f32| if comm.rank() == 0 { large } else { 1.0 };
        let mut sum = [f16::from_f32(first(2048.0)); 5];
        comm.all_reduce(&"f16".into(), Reduce::Sum, SpanMut::of(&mut sum))?;
        // 2051 lies between two f16s, and 2052 is the even one.
        assert_eq!(sum, [f16::from_f32(2052.0); 5]);
        let mut sum = vec![f16::from_f32(first(2048.0)); 300_001];
        comm.all_reduce(&"f16".into(), Reduce::Sum, SpanMut::of(&mut sum))?;
        assert!(sum.iter().all(|x| *x == f16::from_f32(2052.0)));
        let send = [bf16::from_f32(first(256.0)); 8];
        let mut recv = [bf16::ZERO; 2];
        let (from, to) = (Span::of(&send), SpanMut::of(&mut recv));
        comm.reduce_scatter(&"bf16".into(), Reduce::Sum, from, to)?;
        assert_eq!(recv, [bf16::from_f32(260.0); 2]);
        // The sum is no f16 at all, the mean is.
        let mut mean = [f16::MAX];
        comm.all_reduce(&"mean".into(), Reduce::Mean, SpanMut::of(&mut mean))?;
        assert_eq!(mean, [f16::MAX]);
        Ok(())
    });
}

/// A nan survives and infinities cancel.
pub fn a_nan_survives_and_infinities_cancel(launch: &impl Launch) {
    for world in [2, 3] {
        for odd in 0..world {
            on_ranks(launch, world, |comm| {
                let mine = if comm.rank() == odd { f32::NAN } else { 1.0 };
                for op in [Reduce::Sum, Reduce::Mean, Reduce::Max] {
                    let mut buffer = [mine, 2.0, mine];
                    comm.all_reduce(&"nan".into(), op, SpanMut::of(&mut buffer))?;
                    assert!(buffer[0].is_nan() && buffer[2].is_nan(), "{op:?}");
                    assert!(buffer[1].is_finite());
                }
                let infinite = if comm.rank() == odd {
                    f64::INFINITY
                } else {
                    f64::NEG_INFINITY
                };
                let mut buffer = [infinite];
                comm.all_reduce(&"sum".into(), Reduce::Sum, SpanMut::of(&mut buffer))?;
                assert!(buffer[0].is_nan());
                let mut buffer = [infinite];
                comm.all_reduce(&"max".into(), Reduce::Max, SpanMut::of(&mut buffer))?;
                assert_eq!(buffer, [f64::INFINITY]);
                Ok(())
            });
        }
    }
}
