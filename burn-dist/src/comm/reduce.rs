//! The arithmetic of reductions.
//!
//! Rank 0 comes first, then rank 1, and so on: the fixed order makes results repeat bit for bit. f16 and bf16 are summed in f32 and rounded once, at the end.

use super::{Dtype, Element, Reduce, Span, SpanMut};
use crate::error::{Error, Result};
use half::{bf16, f16};
use rayon::prelude::*;

/// Below this many elements a reduction is not worth another thread.
const PARALLEL_FROM: usize = 1 << 18;
/// Elements that a thread reduces at a time: few enough that the accumulator stays in the cache.
const ELEMENTS_PER_TASK: usize = 1 << 12;

/// Calls a function for the Rust type of a `Dtype`.
macro_rules! each {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            Dtype::F64 => $f::<f64>($($arg),*),
            Dtype::F32 => $f::<f32>($($arg),*),
            Dtype::F16 => $f::<f16>($($arg),*),
            Dtype::Bf16 => $f::<bf16>($($arg),*),
            Dtype::I64 => $f::<i64>($($arg),*),
            Dtype::I32 => $f::<i32>($($arg),*),
            Dtype::I8 => $f::<i8>($($arg),*),
            Dtype::U64 => $f::<u64>($($arg),*),
            Dtype::U32 => $f::<u32>($($arg),*),
            Dtype::U8 => $f::<u8>($($arg),*),
        }
    };
}

/// Writes the reduction of `sources`, one per rank in rank order, to `out`: what an engine's results must be,
/// bit for bit.
///
/// A source may be misaligned, as received bytes are; it is copied then.
///
/// # Numerics
/// Rank 0 first, then rank 1, and so on; f16 and bf16 are summed in f32 and rounded once. Sums of
/// integers wrap.
///
/// # Errors
/// [`Error::Config`] if there is no source, a source has another type or length than `out`, `out` is
/// misaligned, or for the mean of integers.
///
/// ```
/// use burn_dist::comm::{Reduce, Span, SpanMut, reduce_into};
///
/// let (rank_0, rank_1) = ([1.0f32, 2.0], [10.0f32, 20.0]);
/// let mut sum = [0.0f32; 2];
/// let sources = [Span::of(&rank_0), Span::of(&rank_1)];
/// reduce_into(Reduce::Sum, &sources, SpanMut::of(&mut sum))?;
/// assert_eq!(sum, [11.0, 22.0]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub fn reduce_into(op: Reduce, sources: &[Span<'_>], mut out: SpanMut<'_>) -> Result<()> {
    let dtype = out.dtype();
    let refused = |found: String| {
        let expected = format!(
            "one source or more, each like the output of {} {dtype}",
            out.len()
        );
        Err(Error::config("a reduction", expected, found))
    };
    if sources.is_empty() {
        return refused("none".into());
    }
    let differs = |s: &&Span<'_>| s.dtype() != dtype || s.bytes().len() != out.bytes().len();
    if let Some(source) = sources.iter().find(differs) {
        return refused(format!("a source of {} {}", source.len(), source.dtype()));
    }
    op.check(dtype)?;
    if !dtype.is_aligned(out.bytes()) {
        let expected = format!("an output of whole, aligned elements of type {dtype}");
        return Err(Error::config("a reduction", expected, "misaligned memory"));
    }
    let aligned: Vec<Vec<u64>> = sources
        .iter()
        .map(|s| {
            if dtype.is_aligned(s.bytes()) {
                Vec::new()
            } else {
                words(s.bytes())
            }
        })
        .collect();
    let len = out.bytes().len();
    let sources: Vec<&[u8]> = sources
        .iter()
        .zip(&aligned)
        .map(|(s, copy)| {
            if copy.is_empty() {
                s.bytes()
            } else {
                &bytemuck::cast_slice(copy)[..len]
            }
        })
        .collect();
    reduce(dtype, op, &sources, out.bytes_mut(), None);
    Ok(())
}

/// The bytes in memory that is aligned for every element type.
fn words(bytes: &[u8]) -> Vec<u64> {
    let mut words = vec![0; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}

/// Writes the reduction of `sources`, one per rank and each as long as `out`, to `out`.
///
/// The bytes must be aligned for `dtype`, unless there are none; `pool` is used for long buffers.
pub(super) fn reduce(
    dtype: Dtype,
    op: Reduce,
    sources: &[&[u8]],
    out: &mut [u8],
    pool: Option<&rayon::ThreadPool>,
) {
    if out.is_empty() {
        return;
    }
    each!(dtype, typed(op, sources, out, pool));
}

/// Where rank `r`'s chunk starts when `len` elements are cut as evenly as whole elements allow.
pub(super) fn split_at(len: usize, ranks: usize, r: usize) -> usize {
    len / ranks * r + (len % ranks).min(r)
}

/// The size of a sum's element divided by the size of an element.
pub(super) fn widening(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F16 | Dtype::Bf16 => 2,
        _ => 1,
    }
}

/// Adds one rank's elements to the sum of the ranks before it, if there are any: one step of what
/// [`reduce`] does for all ranks.
pub(super) fn accumulate(
    dtype: Dtype,
    op: Reduce,
    before: Option<&[u8]>,
    own: &[u8],
    after: &mut [u8],
) {
    each!(dtype, add(op, before, own, after));
}

/// Converts the sum over `ranks` ranks to elements.
pub(super) fn finish_sum(dtype: Dtype, op: Reduce, ranks: usize, sum: &[u8], out: &mut [u8]) {
    each!(dtype, finish(op, ranks, sum, out));
}

fn add<T: Number>(op: Reduce, before: Option<&[u8]>, own: &[u8], after: &mut [u8]) {
    let own: &[T] = bytemuck::cast_slice(own);
    let after: &mut [T::Sum] = bytemuck::cast_slice_mut(after);
    let Some(before) = before else {
        after.iter_mut().zip(own).for_each(|(s, x)| *s = x.widen());
        return;
    };
    let all = after
        .iter_mut()
        .zip(bytemuck::cast_slice::<_, T::Sum>(before))
        .zip(own);
    match op {
        Reduce::Max => all.for_each(|((s, b), x)| *s = T::larger(*b, x.widen())),
        _ => all.for_each(|((s, b), x)| *s = T::add(*b, x.widen())),
    }
}

fn finish<T: Number>(op: Reduce, ranks: usize, sum: &[u8], out: &mut [u8]) {
    let sum: &[T::Sum] = bytemuck::cast_slice(sum);
    let all = bytemuck::cast_slice_mut::<_, T>(out).iter_mut().zip(sum);
    match op {
        Reduce::Mean => all.for_each(|(o, s)| *o = T::narrow(T::divide(*s, ranks))),
        _ => all.for_each(|(o, s)| *o = T::narrow(*s)),
    }
}

fn typed<T: Number>(
    op: Reduce,
    sources: &[&[u8]],
    out: &mut [u8],
    pool: Option<&rayon::ThreadPool>,
) {
    let sources: Vec<&[T]> = sources.iter().map(|s| bytemuck::cast_slice(s)).collect();
    let out: &mut [T] = bytemuck::cast_slice_mut(out);
    let block = |(index, out): (usize, &mut [T])| {
        let start = index * ELEMENTS_PER_TASK;
        let mut sum = [T::Sum::default(); ELEMENTS_PER_TASK];
        let sum = &mut sum[..out.len()];
        for (rank, source) in sources.iter().enumerate() {
            let source = &source[start..start + out.len()];
            match (rank, op) {
                (0, _) => sum.iter_mut().zip(source).for_each(|(s, x)| *s = x.widen()),
                (_, Reduce::Max) => sum
                    .iter_mut()
                    .zip(source)
                    .for_each(|(s, x)| *s = T::larger(*s, x.widen())),
                _ => sum
                    .iter_mut()
                    .zip(source)
                    .for_each(|(s, x)| *s = T::add(*s, x.widen())),
            }
        }
        match op {
            Reduce::Mean => out
                .iter_mut()
                .zip(sum)
                .for_each(|(o, s)| *o = T::narrow(T::divide(*s, sources.len()))),
            _ => out
                .iter_mut()
                .zip(sum)
                .for_each(|(o, s)| *o = T::narrow(*s)),
        }
    };
    match pool {
        Some(pool) if out.len() >= PARALLEL_FROM && pool.current_num_threads() > 1 => {
            pool.install(|| {
                out.par_chunks_mut(ELEMENTS_PER_TASK)
                    .enumerate()
                    .for_each(block)
            });
        }
        _ => out
            .chunks_mut(ELEMENTS_PER_TASK)
            .enumerate()
            .for_each(block),
    }
}

/// An element and the wider type it is accumulated in.
trait Number: Element {
    type Sum: bytemuck::Pod + Default + Send;
    fn widen(self) -> Self::Sum;
    fn narrow(sum: Self::Sum) -> Self;
    fn add(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn larger(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn divide(sum: Self::Sum, by: usize) -> Self::Sum;
}

macro_rules! float {
    ($($rust:ty, $sum:ty, $widen:expr, $narrow:expr);* $(;)?) => {
        $(impl Number for $rust {
            type Sum = $sum;
            fn widen(self) -> $sum { $widen(self) }
            fn narrow(sum: $sum) -> Self { $narrow(sum) }
            fn add(a: $sum, b: $sum) -> $sum { a + b }
            fn larger(a: $sum, b: $sum) -> $sum {
                // A comparison with NaN is false, so a NaN needs a check of its own.
                if a.is_nan() || a > b { a } else { b }
            }
            fn divide(sum: $sum, by: usize) -> $sum { sum / by as $sum }
        })*
    };
}

float!(f64, f64, |x| x, |x| x; f32, f32, |x| x, |x| x;
       f16, f32, f16::to_f32, f16::from_f32; bf16, f32, bf16::to_f32, bf16::from_f32);

macro_rules! integer {
    ($($rust:ty),*) => {
        $(impl Number for $rust {
            type Sum = $rust;
            fn widen(self) -> $rust { self }
            fn narrow(sum: $rust) -> Self { sum }
            fn add(a: $rust, b: $rust) -> $rust { a.wrapping_add(b) }
            fn larger(a: $rust, b: $rust) -> $rust { a.max(b) }
            // `Communicator` refuses the mean of integers before this is called.
            fn divide(sum: $rust, _: usize) -> $rust { sum }
        })*
    };
}

integer!(i64, i32, i8, u64, u32, u8);

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T: Element>(op: Reduce, sources: &[Vec<T>], pool: Option<&rayon::ThreadPool>) -> Vec<T> {
        let mut out = vec![T::zeroed(); sources[0].len()];
        let sources: Vec<&[u8]> = sources.iter().map(|s| bytemuck::cast_slice(s)).collect();
        reduce(
            T::DTYPE,
            op,
            &sources,
            bytemuck::cast_slice_mut(&mut out),
            pool,
        );
        out
    }

    #[test]
    fn half_precision_is_summed_in_f32() {
        // 2048 + 1 is not an f16: summing in f16 would lose every one of the three ones.
        let sources = [2048.0, 1.0, 1.0, 1.0].map(|x| vec![f16::from_f32(x); 3]);
        assert_eq!(
            run(Reduce::Sum, &sources, None),
            vec![f16::from_f32(2052.0); 3]
        );
        let sources = [256.0, 1.0, 1.0].map(|x| vec![bf16::from_f32(x)]);
        assert_eq!(
            run(Reduce::Sum, &sources, None),
            vec![bf16::from_f32(258.0)]
        );
    }

    #[test]
    fn an_engine_outside_reduces_received_bytes_and_is_refused_others() {
        let mut sum = [0f32; 2];
        let mut received = [0u8; 17];
        let start = received.as_ptr().align_offset(8) + 1;
        received[start..start + 8].copy_from_slice(bytemuck::cast_slice(&[1f32, 2.0]));
        let misaligned = Span::new(&received[start..start + 8], Dtype::F32);
        let own = [0.5f32; 2];
        let sources = [Span::of(&own), misaligned];
        let done = reduce_into(Reduce::Mean, &sources, SpanMut::of(&mut sum));
        assert_eq!((done, sum), (Ok(()), [0.75, 1.25]));
        let refused = |op, sources: &[Span<'_>], out: SpanMut<'_>| {
            let error = reduce_into(op, sources, out);
            assert!(matches!(error, Err(Error::Config { .. })), "{error:?}");
        };
        refused(Reduce::Sum, &[], SpanMut::of(&mut sum));
        refused(Reduce::Sum, &[Span::of(&own[..1])], SpanMut::of(&mut sum));
        refused(Reduce::Sum, &[Span::of(&[1i32; 2])], SpanMut::of(&mut sum));
        refused(
            Reduce::Mean,
            &[Span::of(&[1i32; 2])],
            SpanMut::of(&mut [0i32; 2]),
        );
        let out = SpanMut::new(&mut received[start..start + 8], Dtype::F32);
        refused(Reduce::Sum, &[Span::of(&own)], out);
    }

    #[test]
    fn a_nan_survives_max() {
        for sources in [[vec![f32::NAN], vec![1.0]], [vec![1.0], vec![f32::NAN]]] {
            assert!(run(Reduce::Max, &sources, None)[0].is_nan());
        }
        assert_eq!(run(Reduce::Max, &[vec![-3i64], vec![-7]], None), [-3]);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let n = PARALLEL_FROM + 17;
        let sources: Vec<Vec<f32>> = (0..3)
            .map(|r| (0..n).map(|i| ((i * 31 + r * 7) as f32).sin()).collect())
            .collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().ok();
        let alone = run(Reduce::Mean, &sources, None);
        let together = run(Reduce::Mean, &sources, pool.as_ref());
        assert!(
            alone
                .iter()
                .zip(&together)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
    }
}
