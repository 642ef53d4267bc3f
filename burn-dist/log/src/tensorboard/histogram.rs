//! A histogram that is the same whether a tensor is counted whole or shard by shard.

use super::limits::Limits;
use std::io;

/// Counts of numbers by size, in the buckets that TensorFlow and PyTorch have by default.
///
/// Limits grow by 10 % from 1e-12 to 1e20, below zero alike, so a bucket tells a number to 10 %. Numbers beyond have a
/// bucket at each end. NaN and infinities are counted apart.
///
/// As the limits do not depend on the numbers, histograms of shards add up: counts, least and greatest number are
/// exactly those of the whole tensor, the sums but for the rounding of `f64`. It holds 12 kB; a number is counted
/// in 3 to 10 ns.
///
/// ```
/// use burn_dist_log::Histogram;
///
/// let mut shard = Histogram::new();
/// shard.add(&[0.5, -2.0]);
/// let mut other = Histogram::new();
/// other.add(&[3.0, f32::NAN]);
/// shard.merge(&other);
/// assert_eq!((shard.count(), shard.nan()), (3, 1));
/// assert_eq!((shard.min(), shard.max()), (Some(-2.0), Some(3.0)));
/// ```
///
/// # Source
///
/// `torch.utils.tensorboard.SummaryWriter.add_histogram` with `bins="tensorflow"`.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    min: f64,
    max: f64,
    sum: f64,
    sum_of_squares: f64,
    nan: u64,
    infinite: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// Numbers in [`Histogram::to_numbers`] after the counts: two sums, NaN, infinities.
const APART: usize = 4;

impl Histogram {
    /// One of no numbers.
    pub fn new() -> Self {
        Self {
            counts: vec![0; Limits::get().as_slice().len()],
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
            sum_of_squares: 0.0,
            nan: 0,
            infinite: 0,
        }
    }

    /// Counts numbers.
    pub fn add(&mut self, values: &[f32]) {
        self.count_all(values.iter().map(|value| f64::from(*value)));
    }

    /// Counts numbers of 64 bits.
    pub fn add_f64(&mut self, values: &[f64]) {
        self.count_all(values.iter().copied());
    }

    fn count_all(&mut self, values: impl Iterator<Item = f64>) {
        let limits = Limits::get();
        for value in values {
            if value.is_finite() {
                self.counts[limits.bucket(value)] += 1;
                self.min = self.min.min(value);
                self.max = self.max.max(value);
                self.sum += value;
                self.sum_of_squares += value * value;
            } else if value.is_nan() {
                self.nan += 1;
            } else {
                self.infinite += 1;
            }
        }
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
        self.nan += other.nan;
        self.infinite += other.infinite;
    }

    /// Finite numbers.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The least finite number.
    pub fn min(&self) -> Option<f64> {
        (self.min <= self.max).then_some(self.min)
    }

    /// The greatest finite number.
    pub fn max(&self) -> Option<f64> {
        (self.min <= self.max).then_some(self.max)
    }

    /// The sum of the finite numbers.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The sum of the squares of the finite numbers.
    pub fn sum_of_squares(&self) -> f64 {
        self.sum_of_squares
    }

    /// Numbers that are NaN.
    pub fn nan(&self) -> u64 {
        self.nan
    }

    /// Numbers that are infinite, of either sign.
    pub fn infinite(&self) -> u64 {
        self.infinite
    }

    /// The buckets that hold something: the lower limit, which belongs to it, the upper, and how many; rising.
    ///
    /// The outermost are unbounded: their limits are `-f64::MAX` and `f64::MAX`.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, f64, u64)> {
        let limits = Limits::get().as_slice();
        let lower = std::iter::once(-f64::MAX).chain(limits.iter().copied());
        let all = lower.zip(limits).zip(&self.counts);
        all.filter(|(_, count)| **count > 0)
            .map(|((lower, upper), count)| (lower, *upper, *count))
    }

    /// How many numbers [`to_numbers`](Self::to_numbers) has, always.
    pub fn numbers() -> usize {
        Limits::get().as_slice().len() + APART
    }

    /// All but the bounds, as numbers that ranks add up element by element: 12 kB for an all-reduce.
    ///
    /// Counts are exact up to 2^53. The bounds are reduced otherwise: see [`bounds`](Self::bounds).
    pub fn to_numbers(&self) -> Vec<f64> {
        let counts = self.counts.iter().map(|count| *count as f64);
        let apart = [
            self.sum,
            self.sum_of_squares,
            self.nan as f64,
            self.infinite as f64,
        ];
        counts.chain(apart).collect()
    }

    /// The least and the greatest finite number, for a reduction by minimum and by maximum: positive and negative
    /// infinity where nothing is counted.
    pub fn bounds(&self) -> (f64, f64) {
        (self.min, self.max)
    }

    /// The histogram of all ranks, from the sum of their [`to_numbers`](Self::to_numbers) and the least and greatest
    /// of their [`bounds`](Self::bounds).
    ///
    /// # Errors
    ///
    /// If there are not as many numbers as [`numbers`](Self::numbers) says, a count is not a whole number, or
    /// the bounds do not belong to the counts.
    pub fn from_numbers(numbers: &[f64], bounds: (f64, f64)) -> io::Result<Self> {
        let odd = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let split = numbers.split_last_chunk::<APART>();
        let Some((counts, &[sum, sum_of_squares, nan, infinite])) =
            split.filter(|_| numbers.len() == Self::numbers())
        else {
            let (expected, found) = (Self::numbers(), numbers.len());
            let text = format!("a histogram has {expected} numbers, not {found}");
            return Err(odd(text));
        };
        let whole = |number: f64| {
            let is_whole = number >= 0.0 && number.fract() == 0.0;
            let text = || odd(format!("a histogram counts {number} in a bucket"));
            is_whole.then_some(number as u64).ok_or_else(text)
        };
        let counts = counts.iter().map(|count| whole(*count));
        let histogram = Self {
            counts: counts.collect::<io::Result<_>>()?,
            min: bounds.0,
            max: bounds.1,
            sum,
            sum_of_squares,
            nan: whole(nan)?,
            infinite: whole(infinite)?,
        };
        let used = histogram.counts.iter().position(|count| *count > 0);
        let fit = match (used, histogram.counts.iter().rposition(|count| *count > 0)) {
            (Some(first), Some(last)) => {
                let bucket = |bound: f64| bound.is_finite().then(|| Limits::get().bucket(bound));
                (bucket(bounds.0), bucket(bounds.1)) == (Some(first), Some(last))
            }
            _ => bounds == (f64::INFINITY, f64::NEG_INFINITY),
        };
        if fit {
            return Ok(histogram);
        }
        Err(odd(format!(
            "the least and greatest number {bounds:?} are not those of the {} numbers counted: reduce `bounds` \
             by minimum and by maximum over the ranks whose numbers were summed",
            histogram.count()
        )))
    }

    /// Limits and counts as TensorFlow writes them: without empty buckets at the ends but one at the lower, and each
    /// run of empty ones as one.
    pub(crate) fn buckets_in_use(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut limits, mut counts): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut end = -f64::MAX;
        for (lower, upper, count) in self.buckets() {
            if lower > end {
                limits.push(lower);
                counts.push(0.0);
            }
            limits.push(upper);
            counts.push(count as f64);
            end = upper;
        }
        (limits, counts)
    }
}
