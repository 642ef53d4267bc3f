//! The limits of the buckets of histograms, as TensorFlow and PyTorch set them.

use std::sync::LazyLock;

/// Each bucket is wider than the one before it by this factor.
const GROWTH: f64 = 1.1;
/// The first positive limit.
const FIRST: f64 = 1e-12;
/// No limit lies at it or above, but the last.
const END: f64 = 1e20;

/// Bits of an `f64` that stay when a number is looked up: its exponent and three bits of its fraction. Numbers that
/// agree in them differ by less than a factor of 9 / 8, so at most two limits lie between them.
const SHIFT: u32 = 52 - 3;

/// The limits of the buckets, and a table of cells to look a number up.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Rising. A bucket holds what is below its limit and not below the limit before. Two infinities follow, so that
    /// the two limits after any start can be looked at.
    of: Vec<f64>,
    /// For each pattern of the upper bits of a positive number from `first` on, the bucket of the least such number.
    starts: Vec<u16>,
    first: u64,
    last: u64,
    buckets: usize,
}

static LIMITS: LazyLock<Limits> = LazyLock::new(Limits::new);

impl Limits {
    /// The limits, computed once.
    pub(crate) fn get() -> &'static Self {
        &LIMITS
    }

    fn new() -> Self {
        // By repeated multiplication, as TensorFlow does, for limits that are equal to the last bit.
        let positive: Vec<f64> = std::iter::successors(Some(FIRST), |limit| Some(limit * GROWTH))
            .take_while(|limit| *limit < END)
            .collect();
        let mut of: Vec<f64> = positive.iter().rev().map(|limit| -limit).collect();
        of.push(0.0);
        of.extend(positive);
        of.push(f64::MAX);
        let buckets = of.len();
        let (first, last) = (FIRST.to_bits() >> SHIFT, END.to_bits() >> SHIFT);
        let starts = (first..=last).map(|upper| {
            let least = f64::from_bits(upper << SHIFT);
            of.partition_point(|limit| *limit <= least) as u16
        });
        let starts = starts.collect();
        of.extend([f64::INFINITY; 2]);
        Self {
            of,
            starts,
            first,
            last,
            buckets,
        }
    }

    pub(crate) fn as_slice(&self) -> &[f64] {
        &self.of[..self.buckets]
    }

    /// The bucket of a finite number.
    ///
    /// Without a branch on the number, as weights are of either sign and of any size, which no processor foresees.
    pub(crate) fn bucket(&self, value: f64) -> usize {
        let size = value.abs();
        let cell = (size.to_bits() >> SHIFT).clamp(self.first, self.last) - self.first;
        let start = usize::from(self.starts[cell as usize]);
        // At most two limits lie within a cell; below the first cell none does, and above the last one all are passed.
        let passed = usize::from(self.of[start] <= size) + usize::from(self.of[start + 1] <= size);
        let bucket = (start + passed).min(self.buckets - 1);
        // Limits mirror each other around zero. A bucket holds its lower limit, whose mirror image is an upper one:
        // a negative number that is a limit belongs into the bucket above.
        let is_limit = usize::from(self.of[bucket - 1] == size);
        let mirrored = self.buckets - 1 - bucket + is_limit;
        if value < 0.0 { mirrored } else { bucket }
    }
}
