//! The numbers from 0 to 1 that a code of a few bits can say, dense where small numbers are.
//!
//! Each decade has twice as many levels as the one below it, evenly spaced, and the largest level is 1. So small numbers
//! keep their size, which evenly spaced levels would round to 0, and large ones their digits.
//!
//! # Source
//! The dynamic data type of Dettmers et al., *8-bit Optimizers via Block-wise Quantization*, 2022; the levels here end at
//! the decades' upper ends, and are symmetric, so that the largest number of a block is itself again.

use std::sync::OnceLock;

/// Bits of an f32 that choose where the search for a level begins: sign, exponent and the first seven of the mantissa.
const SHIFT: u32 = 16;

/// Levels, and how a number finds the nearest one.
#[derive(Debug)]
pub(super) struct Levels {
    /// Ascending from 0 to 1.
    values: Vec<f32>,
    /// Where the code of the next level begins, for each level but the last.
    bounds: Vec<f32>,
    /// The code of the smallest number with these first bits.
    first: Vec<u8>,
}

impl Levels {
    /// 127 levels above 0, of seven decades, for the magnitude of a number with a sign.
    pub(super) fn signed() -> &'static Self {
        static LEVELS: OnceLock<Levels> = OnceLock::new();
        LEVELS.get_or_init(|| Self::of_decades(7))
    }

    /// 255 levels above 0, of eight decades, for a number without one.
    pub(super) fn unsigned() -> &'static Self {
        static LEVELS: OnceLock<Levels> = OnceLock::new();
        LEVELS.get_or_init(|| Self::of_decades(8))
    }

    fn of_decades(decades: u32) -> Self {
        let mut values = Vec::new();
        let mut top = 1.0f64;
        for decade in (0..decades).rev() {
            let count = 1u32 << decade;
            let level = |at: u32| (0.1 + 0.9 * f64::from(at) / f64::from(count)) * top;
            values.extend((1..=count).rev().map(|at| level(at) as f32));
            top /= 10.0;
        }
        values.push(0.0);
        values.reverse();
        let bounds: Vec<f32> = values.windows(2).map(|w| (w[0] + w[1]) / 2.0).collect();
        let buckets = (1.0f32.to_bits() >> SHIFT) + 1;
        let first = (0..buckets).map(|bucket| {
            let smallest = f32::from_bits(bucket << SHIFT);
            bounds.partition_point(|bound| *bound <= smallest) as u8
        });
        Self {
            first: first.collect(),
            bounds,
            values,
        }
    }

    /// The code of the level nearest to a number from 0 to 1.
    #[inline(always)]
    pub(super) fn code(&self, number: f32) -> u8 {
        let bucket = (number.to_bits() >> SHIFT) as usize;
        let mut code = self.first.get(bucket).copied().unwrap_or(u8::MAX);
        while self
            .bounds
            .get(usize::from(code))
            .is_some_and(|bound| number >= *bound)
        {
            code += 1;
        }
        code
    }

    /// The level of a code.
    #[inline(always)]
    pub(super) fn value(&self, code: u8) -> f32 {
        self.values.get(usize::from(code)).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_ascend_from_0_to_1() {
        for (levels, count) in [(Levels::signed(), 128), (Levels::unsigned(), 256)] {
            assert_eq!(levels.values.len(), count);
            assert_eq!(levels.values[0], 0.0);
            assert_eq!(levels.values[count - 1], 1.0);
            assert!(levels.values.windows(2).all(|w| w[0] < w[1]));
        }
        assert!((Levels::signed().values[1] - 1e-6).abs() < 1e-9);
        assert!((Levels::unsigned().values[1] - 1e-7).abs() < 1e-10);
    }

    #[test]
    fn a_number_gets_the_nearest_level() {
        for levels in [Levels::signed(), Levels::unsigned()] {
            for at in 0..20_000 {
                let number = (10f32.powf(-8.0 * (at as f32) / 20_000.0)).min(1.0);
                let found = levels.value(levels.code(number));
                let nearest = levels.values.iter().map(|level| (level - number).abs());
                let nearest = nearest.fold(f32::MAX, f32::min);
                assert!((found - number).abs() <= nearest * 1.0001, "{number}");
            }
            for (code, level) in levels.values.iter().enumerate() {
                assert_eq!(usize::from(levels.code(*level)), code);
            }
        }
    }
}
