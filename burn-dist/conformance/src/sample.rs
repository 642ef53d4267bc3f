//! Elements that ranks send, and what must become of them.
//!
//! The oracle is as simple as it can be: f64 for floats, i128 for integers. Float samples are
//! small multiples of a power of two whose sums are exact in f32, so that every order of adding
//! gives the same and only the last rounding shows; integers use their whole range and wrap.

use burn_dist::comm::{Element, Reduce};
use half::{bf16, f16};
use std::fmt::Debug;

/// An element type under test.
pub trait Sample: Element + PartialEq + Debug {
    /// The reductions that this type has.
    const REDUCTIONS: &'static [Reduce];

    /// What `rank` sends at `index`.
    fn sample(rank: usize, index: usize) -> Self;

    /// The reduction of one value per rank.
    fn oracle(op: Reduce, values: &[Self]) -> Self;
}

/// What `rank` sends from index `from` to index `to`.
pub fn samples<T: Sample>(rank: usize, from: usize, to: usize) -> Vec<T> {
    (from..to).map(|index| T::sample(rank, index)).collect()
}

/// The reduction over `ranks` ranks of what they send from index `from` to index `to`.
pub fn reduced<T: Sample>(op: Reduce, ranks: usize, from: usize, to: usize) -> Vec<T> {
    (from..to)
        .map(|index| {
            let values: Vec<T> = (0..ranks).map(|rank| T::sample(rank, index)).collect();
            T::oracle(op, &values)
        })
        .collect()
}

/// A number that looks random and depends on rank and index only.
pub fn scramble(rank: usize, index: usize) -> u64 {
    // The finaliser of SplitMix64.
    let mut z = (rank as u64) << 40 ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

macro_rules! float {
    ($($rust:ty: $bits:literal, $widen:expr, $narrow:expr);* $(;)?) => {
        $(impl Sample for $rust {
            const REDUCTIONS: &'static [Reduce] = &[Reduce::Sum, Reduce::Mean, Reduce::Max];

            fn sample(rank: usize, index: usize) -> Self {
                let integer = (scramble(rank, index) >> (64 - $bits)) as f64;
                $narrow((integer - f64::from(1u32 << ($bits - 1))) / 8.0)
            }

            fn oracle(op: Reduce, values: &[Self]) -> Self {
                let values: Vec<f64> = values.iter().map(|x| $widen(*x)).collect();
                let sum: f64 = values.iter().sum();
                $narrow(match op {
                    Reduce::Sum => sum,
                    Reduce::Mean => sum / values.len() as f64,
                    Reduce::Max => values.into_iter().fold(f64::NEG_INFINITY, f64::max),
                })
            }
        })*
    };
}

float!(f64: 16, |x| x, |x| x; f32: 16, f64::from, |x| x as f32;
       f16: 11, f16::to_f64, f16::from_f64; bf16: 8, bf16::to_f64, bf16::from_f64);

macro_rules! integer {
    ($($rust:ty),*) => {
        $(impl Sample for $rust {
            const REDUCTIONS: &'static [Reduce] = &[Reduce::Sum, Reduce::Max];

            fn sample(rank: usize, index: usize) -> Self {
                scramble(rank, index) as $rust
            }

            fn oracle(op: Reduce, values: &[Self]) -> Self {
                let values = values.iter().map(|x| i128::from(*x));
                match op {
                    Reduce::Max => values.max().unwrap() as $rust,
                    _ => values.sum::<i128>() as $rust,
                }
            }
        })*
    };
}

integer!(i64, i32, i8, u64, u32, u8);

/// Calls a generic function once for every element type.
#[macro_export]
macro_rules! every_type {
    ($function:ident($($argument:expr),*)) => {
        $function::<f64>($($argument),*)?;
        $function::<f32>($($argument),*)?;
        $function::<$crate::half::f16>($($argument),*)?;
        $function::<$crate::half::bf16>($($argument),*)?;
        $function::<i64>($($argument),*)?;
        $function::<i32>($($argument),*)?;
        $function::<i8>($($argument),*)?;
        $function::<u64>($($argument),*)?;
        $function::<u32>($($argument),*)?;
        $function::<u8>($($argument),*)?;
    };
}
