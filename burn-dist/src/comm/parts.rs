//! Which part of an all-to-all goes from which rank to which.

use sha2::{Digest, Sha256};
use std::ops::Range;

/// The table of an all-to-all: `counts[from * size + to]` elements go from rank `from` to rank `to`.
///
/// What a rank sends lies in its buffer in the order of the ranks that receive it, and what it receives
/// in the order of the ranks that have sent it.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    counts: &'a [usize],
    size: usize,
}

impl<'a> Parts<'a> {
    /// The table of `size` ranks; a pair without a count exchanges nothing.
    pub fn new(counts: &'a [usize], size: usize) -> Self {
        Self { counts, size }
    }

    /// Elements that go from one rank to another.
    pub fn count(&self, from: usize, to: usize) -> usize {
        self.counts.get(from * self.size + to).copied().unwrap_or(0)
    }

    /// Elements that a rank sends.
    pub fn sent(&self, from: usize) -> usize {
        (0..self.size).map(|to| self.count(from, to)).sum()
    }

    /// Elements that a rank receives.
    pub fn received(&self, to: usize) -> usize {
        (0..self.size).map(|from| self.count(from, to)).sum()
    }

    /// Where the elements for `to` lie in what `from` sends.
    pub fn in_sent(&self, from: usize, to: usize) -> Range<usize> {
        let start = (0..to).map(|before| self.count(from, before)).sum();
        start..start + self.count(from, to)
    }

    /// Where the elements of `from` lie in what `to` receives.
    pub fn in_received(&self, from: usize, to: usize) -> Range<usize> {
        let start = (0..from).map(|before| self.count(before, to)).sum();
        start..start + self.count(from, to)
    }

    /// A number that differs where tables do.
    pub(super) fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        for count in self.counts {
            hash.update((*count as u64).to_le_bytes());
        }
        let hash = hash.finalize();
        hash.iter()
            .take(8)
            .fold(0, |all, byte| all << 8 | u64::from(*byte))
    }
}

/// A range of elements in bytes.
pub(super) fn bytes(elements: Range<usize>, size: usize) -> Range<usize> {
    elements.start * size..elements.end * size
}

#[cfg(test)]
mod tests {
    use super::Parts;

    #[test]
    fn parts_lie_back_to_back_in_rank_order() {
        let counts = [1, 2, 0, 4, 0, 3, 0, 5, 6];
        let parts = Parts::new(&counts, 3);
        assert_eq!((parts.sent(1), parts.received(1)), (7, 7));
        assert_eq!(parts.in_sent(1, 2), 4..7);
        assert_eq!(parts.in_received(2, 1), 2..7);
        assert_eq!(parts.in_received(1, 1), 2..2);
        let mut other = counts;
        other.swap(0, 1);
        assert_ne!(parts.digest(), Parts::new(&other, 3).digest());
    }
}
