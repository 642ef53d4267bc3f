//! A comparison among ranks of the weights that each has opened.
//!
//! A stale copy of a checkpoint on one host has the same header: names, shapes and offsets. So the elements
//! are compared too, by default a sample of every tensor. The sample tells apart two training runs of one
//! model, and not two files that differ in a few elements.

use super::files::{StoredTensor, Weights};
use crate::agreement::{Difference, compare};
use crate::error::{Error, Result};
use crate::world::World;
use std::ops::Range;

/// Bytes of a block of the sample.
const BLOCK: usize = 4096;
/// Blocks of a tensor: the first, the last, and evenly spaced ones between them.
const BLOCKS: usize = 8;

impl Weights {
    /// Compares every element among ranks, instead of a sample, when a model is sharded from these
    /// weights.
    ///
    /// # Cost
    /// Every rank reads all files once. The sample is 8 blocks of 4 KiB of each tensor.
    pub fn compare_all(mut self) -> Self {
        self.compares_all = true;
        self
    }

    /// Returns if all ranks have opened the same weights. Collective.
    pub(super) fn agree(&self, world: &World) -> Result<()> {
        if world.size() == 1 {
            return Ok(());
        }
        let lines: String = self
            .stored()
            .map(|(name, stored)| self.line(name, stored))
            .collect();
        match compare(world.comm(), "weights", &lines)? {
            None => Ok(()),
            Some(difference) => Err(self.difference_error(world, &difference)),
        }
    }

    /// The line that is compared for a tensor: its name and file, a tab, and shape, type and checksum.
    fn line(&self, name: &str, stored: &StoredTensor) -> String {
        let bytes = self.bytes(stored);
        let mut crc = crc32fast::Hasher::new();
        let blocks = compared(bytes.len(), self.compares_all);
        blocks.for_each(|block| crc.update(&bytes[block]));
        format!(
            "{name} in {}\t{} with checksum {:08x}\n",
            self.file_name(stored),
            self.shape_and_type(stored),
            crc.finalize()
        )
    }

    fn difference_error(&self, world: &World, difference: &Difference) -> Error {
        let Difference { usual, odd, .. } = difference;
        let [usually, oddly] = difference.describe(" as ", "no more tensors");
        let expected = format!(
            "the same weights on all {} ranks, on rank {odd} as on rank {usual}",
            world.size()
        );
        let found = format!(
            "{oddly} on rank {odd} and {usually} on rank {usual}; copy the same files to every host"
        );
        Error::file(self.path(), expected, found)
    }
}

/// The parts of a tensor of `len` bytes that are compared, the same on every rank: a sample, or all of
/// one that is small or where `all` is asked for.
fn compared(len: usize, all: bool) -> impl Iterator<Item = Range<usize>> {
    let (blocks, size) = if all || len <= BLOCK * BLOCKS {
        (1, len)
    } else {
        (BLOCKS, BLOCK)
    };
    let start = move |block: usize| {
        let last = (len - size) as u128;
        (last * block as u128 / (blocks as u128 - 1).max(1)) as usize
    };
    (0..blocks).map(move |block| start(block)..start(block) + size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_both_ends_and_no_block_twice() {
        let parts = |len, all| compared(len, all).collect::<Vec<_>>();
        for len in [BLOCK * BLOCKS + 1, 1 << 20, (1 << 20) + 7] {
            let blocks = parts(len, false);
            assert_eq!(blocks.len(), BLOCKS);
            assert_eq!((blocks[0].start, blocks[BLOCKS - 1].end), (0, len));
            assert!(blocks.windows(2).all(|pair| pair[0].end <= pair[1].start));
            assert_eq!(
                (parts(len, true)[0].start, parts(len, true)[0].end),
                (0, len)
            );
        }
        for len in [0, BLOCK, BLOCK * BLOCKS] {
            let blocks = parts(len, false);
            assert_eq!((blocks.len(), blocks[0].start, blocks[0].end), (1, 0, len));
        }
    }
}
