//! Random streams that depend on their address alone: a purpose, a seed and two counters.
//!
//! With a generator that is shared, results depend on the order of calls: on the number of ranks, on thread
//! timing, on the step at which a run was resumed. A [`Stream`] is instead opened from its address (the counters
//! are for example epoch and sample index), so that every rank and thread that needs the numbers of sample 17
//! in epoch 3 draws the same ones. The key is laid out here byte by byte and the
//! few distributions are written out, because the generic ones of `rand` may change their values between
//! versions, and a run that is resumed after an update must get the same batches.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A random stream that is a pure function of its address.
///
/// Opening one costs some 60 ns and holds some 300 bytes. The numbers come from ChaCha with 8 rounds,
/// keyed by the address; they are the same on every platform. Not for cryptography.
///
/// # Example
///
/// ```
/// use burn_dist::data::Stream;
///
/// let (seed, epoch, sample) = (42, 3, 17);
/// let mut once = Stream::new(*b"flipping", seed, epoch, sample);
/// let mut again = Stream::new(*b"flipping", seed, epoch, sample);
/// assert_eq!(once.coin(), again.coin());
/// assert!(once.below(6) < 6);
/// ```
///
/// Source: D. J. Bernstein, *ChaCha, a variant of Salsa20*, 2008.
#[derive(Debug, Clone)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// Opens the stream for a `purpose` (any eight bytes; different ones never share numbers), a `seed` and
    /// two counters.
    #[must_use]
    pub fn new(purpose: [u8; 8], seed: u64, first: u64, second: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&purpose);
        key[8..16].copy_from_slice(&seed.to_le_bytes());
        key[16..24].copy_from_slice(&first.to_le_bytes());
        key[24..].copy_from_slice(&second.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A whole number below `bound`, each equally likely; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a 128-bit product maps 64 random bits to 0..bound. For 2^64 mod bound of the low
        // halves the mapping has one value too many; those are drawn again.
        loop {
            let product = u128::from(self.0.next_u64()) * u128::from(bound);
            let low = product as u64;
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }

    /// A number in `[0, 1)`, a multiple of 2^-24, so that each is exact in `f32`.
    pub fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// A number in `[low, high)`, up to rounding.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True or false, equally likely.
    pub fn coin(&mut self) -> bool {
        self.0.next_u32() >> 31 == 1
    }

    /// Fills `bytes` with random ones.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// Brings `items` into a random order, each order equally likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_address_matters() {
        let first =
            |purpose: &[u8; 8], seed, a, b| Stream::new(*purpose, seed, a, b).below(u64::MAX);
        let base = first(b"purpose1", 1, 2, 3);
        assert_eq!(base, first(b"purpose1", 1, 2, 3));
        assert_ne!(base, first(b"purpose2", 1, 2, 3));
        assert_ne!(base, first(b"purpose1", 0, 2, 3));
        assert_ne!(base, first(b"purpose1", 1, 0, 3));
        assert_ne!(base, first(b"purpose1", 1, 2, 0));
    }

    /// A resumed run must draw the same numbers: these may not change with a dependency's version.
    #[test]
    fn the_numbers_are_pinned() {
        let mut stream = Stream::new(*b"sampling", 42, 0, 0);
        let mut order: Vec<u8> = (0..10).collect();
        stream.shuffle(&mut order);
        assert_eq!(order, [8, 5, 7, 4, 0, 1, 2, 9, 3, 6]);
    }

    #[test]
    fn numbers_stay_in_their_range_and_fill_it() {
        let mut stream = Stream::new(*b"ranges  ", 0, 0, 0);
        let mut seen = [0_u32; 6];
        for _ in 0..6000 {
            seen[stream.below(6) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
        assert!((0..1000).all(|_| (0.0..1.0).contains(&stream.unit())));
        assert!((0..1000).all(|_| (-2.0..=3.0).contains(&stream.between(-2.0, 3.0))));
        let heads = (0..1000).filter(|_| stream.coin()).count();
        assert!((400..600).contains(&heads), "{heads}");
        assert_eq!(stream.below(1), 0);
        assert_eq!(stream.below(0), 0);
    }
}
