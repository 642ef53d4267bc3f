//! Work over the rows of matrices, split over the threads of the current rayon pool.
//!
//! The blocks have a fixed number of rows, whatever the number of threads: a sum over rows is the sum of the
//! blocks' sums in their order, and comes out to the same bits on any number of threads.

use crate::simd::{self, Kernel, MulAdd};
use rayon::prelude::*;

/// Elements of a block: large enough that a block costs more than handing it to a thread (some
/// microseconds), small enough that the rows of a usual batch make many blocks.
const BLOCK_ELEMENTS: usize = 1 << 15;

/// The rows of a block, of `width` elements each.
pub(crate) fn block(width: usize) -> usize {
    (BLOCK_ELEMENTS / width.max(1)).max(1)
}

/// The rows of a block whose sum is kept beside those of the other blocks: at least one in 32 of all, so that the sums
/// together are small beside the rows.
pub(crate) fn summed_block(rows: usize, width: usize) -> usize {
    block(width).max(rows.div_ceil(32))
}

/// Adds up `N` vectors of `width` elements that `part` makes of each block, in the order of the blocks.
pub(crate) fn sum_over_blocks<I: IndexedParallelIterator, const N: usize>(
    blocks: I,
    width: usize,
    part: impl Fn(I::Item, &mut [Vec<f32>; N]) + Sync + Send,
) -> [Vec<f32>; N] {
    let zeros = || std::array::from_fn(|_| vec![0.0; width]);
    let parts = blocks.map(|block| {
        let mut sums = zeros();
        part(block, &mut sums);
        sums
    });
    let mut parts = parts.collect::<Vec<_>>().into_iter();
    let mut total = parts.next().unwrap_or_else(zeros);
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            for (total, part) in total.iter_mut().zip(part) {
                *total += part;
            }
        }
    }
    total
}

struct AddRows<'a> {
    x: &'a [f32],
    /// Added to; as long as a row.
    sums: &'a mut [f32],
}

impl Kernel for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let n = self.sums.len();
        for row in self.x.chunks_exact(n) {
            for (sum, x) in self.sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

/// The sum of the rows of `x`, each of `width` elements: a bias' gradient.
pub(crate) fn sum_of_rows(x: &[f32], width: usize) -> Vec<f32> {
    if width == 0 {
        return Vec::new();
    }
    let blocks = x.par_chunks(summed_block(x.len() / width, width).max(1) * width);
    let [sums] = sum_over_blocks(blocks, width, |x, [sums]| simd::run(AddRows { x, sums }));
    sums
}
