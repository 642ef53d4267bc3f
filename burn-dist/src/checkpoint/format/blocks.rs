//! Checksums of a file, block by block: a part of it is verified without reading the rest.

use crc32fast::Hasher;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::Range;

/// Bytes of a block; the last of a file may have fewer.
pub(in crate::checkpoint) const BLOCK: u64 = 1 << 20;

/// The CRC-32 of each block of a file, as zlib computes it; in JSON eight hexadecimal digits a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::checkpoint) struct BlockSums(Vec<u32>);

impl BlockSums {
    /// Whether there are as many as a file of so many bytes has blocks.
    pub(super) fn fit(&self, bytes: u64) -> bool {
        self.0.len() as u64 == bytes.div_ceil(BLOCK)
    }

    /// The sum of a block.
    pub(super) fn of(&self, block: u64) -> Option<u32> {
        self.0.get(usize::try_from(block).ok()?).copied()
    }
}

impl Serialize for BlockSums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String = self.0.iter().map(|sum| format!("{sum:08x}")).collect();
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for BlockSums {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let (sums, rest) = digits.as_bytes().as_chunks::<8>();
        let sum = |digits: &[u8; 8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_hexadecimal.then(|| u32::from_str_radix(digits, 16).ok())?
        };
        let sums: Option<Vec<u32>> = sums.iter().map(sum).collect();
        let sums = sums.filter(|_| rest.is_empty());
        sums.map(Self)
            .ok_or_else(|| D::Error::custom("eight hexadecimal digits a block"))
    }
}

/// The blocks that a range of bytes touches.
pub(super) fn blocks_of(bytes: &Range<u64>) -> Range<u64> {
    if bytes.is_empty() {
        return 0..0;
    }
    bytes.start / BLOCK..bytes.end.div_ceil(BLOCK)
}

/// The bytes of a block in a file of `len` bytes.
pub(super) fn bytes_of(block: u64, len: u64) -> Range<u64> {
    block * BLOCK..((block + 1) * BLOCK).min(len)
}

/// The sums of a file that is written from some byte on, and its beginning last: what comes first in the
/// file is known only when the rest is written.
#[derive(Debug)]
pub(super) struct Summing {
    /// The bytes that are summed so far, from the first of the rest to the next one.
    from: u64,
    at: u64,
    /// One for each block from that of `from` on; the first covers what of it is in the rest.
    blocks: Vec<Hasher>,
}

impl Summing {
    pub(super) fn starting_at(from: u64) -> Self {
        Self {
            from,
            at: from,
            blocks: Vec::new(),
        }
    }

    /// The number of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK - self.at % BLOCK;
            let len = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            let (here, rest) = bytes.split_at(len);
            let block = (self.at / BLOCK - self.from / BLOCK) as usize;
            if block == self.blocks.len() {
                self.blocks.push(Hasher::new());
            }
            if let Some(hasher) = self.blocks.last_mut() {
                hasher.update(here);
            }
            self.at += len as u64;
            bytes = rest;
        }
    }

    /// The sums of the whole file, whose bytes before the rest are `beginning`.
    pub(super) fn finish(self, beginning: &[u8]) -> BlockSums {
        let mut first = Self::starting_at(0);
        first.add(beginning);
        let mut blocks = first.blocks;
        let mut rest = self.blocks.into_iter();
        // A block that both have parts of.
        if !self.from.is_multiple_of(BLOCK)
            && let (Some(begun), Some(other)) = (blocks.last_mut(), rest.next())
        {
            begun.combine(&other);
        }
        blocks.extend(rest);
        BlockSums(blocks.into_iter().map(Hasher::finalize).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn sums_are_those_of_the_whole_file(
            beginning in prop_oneof![0u64..100, BLOCK - 2..BLOCK + 3, 2 * BLOCK..2 * BLOCK + 2],
            rest in prop_oneof![0u64..100, BLOCK - 2..BLOCK + 3, 3 * BLOCK..3 * BLOCK + 2],
            piece in 1usize..700_000,
        ) {
            let whole: Vec<u8> = (0..beginning + rest).map(|at| (at * 31 % 251) as u8).collect();
            let (first, second) = whole.split_at(beginning as usize);
            let mut summing = Summing::starting_at(beginning);
            second.chunks(piece).for_each(|part| summing.add(part));
            prop_assert_eq!(summing.position(), beginning + rest);
            let sums = summing.finish(first);
            prop_assert!(sums.fit(beginning + rest));
            for (at, block) in whole.chunks(BLOCK as usize).enumerate() {
                prop_assert_eq!(sums.of(at as u64), Some(crc32fast::hash(block)));
            }
            let text = serde_json::to_string(&sums).unwrap();
            prop_assert_eq!(serde_json::from_str::<BlockSums>(&text).unwrap(), sums);
        }
    }

    #[test]
    fn sums_that_are_none_are_errors() {
        for text in ["\"1234567\"", "\"1234567g\"", "\"+2345678\"", "[1]"] {
            assert!(serde_json::from_str::<BlockSums>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_touch_blocks() {
        assert_eq!(blocks_of(&(5..5)), 0..0);
        assert_eq!(blocks_of(&(0..BLOCK)), 0..1);
        assert_eq!(blocks_of(&(BLOCK - 1..BLOCK + 1)), 0..2);
        assert_eq!(bytes_of(1, BLOCK + 7), BLOCK..BLOCK + 7);
    }
}
