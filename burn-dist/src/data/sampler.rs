//! The sampler: the indices of a rank's samples in each step.
//!
//! It is pure arithmetic over a seeded order, so that it can be tested without a device or a file, and computed
//! again for any epoch and step after a restart.

use std::iter::FusedIterator;

use super::Stream;
use crate::{Error, Result};

/// Cuts each epoch into global batches and gives every rank its part.
///
/// The order of an epoch depends on the length, the seed and the epoch only. Step `s` takes the next
/// `world * batch` samples of it; rank `r` takes the `r`-th part of those. Every sample is taken once, all
/// ranks have the same number of steps, and within a step the ranks' counts differ by at most one (see the
/// [module](crate::data) for what that asks of the loss).
///
/// The sampler itself is a few numbers. An epoch in a shuffled order costs one permutation: 8 bytes and about
/// 15 ns a sample.
///
/// # Example
///
/// ```
/// use burn_dist::data::DistributedSampler;
///
/// // Ten samples, three ranks, two samples a rank and step: 6 samples, then the remaining 4.
/// let mut seen = Vec::new();
/// for rank in 0..3 {
///     let sampler = DistributedSampler::new(10, 2)?.for_rank(rank, 3)?.shuffled(42);
///     assert_eq!(sampler.steps(), 2);
///     for step in sampler.epoch(0) {
///         seen.extend(step.indices);
///     }
/// }
/// seen.sort();
/// assert_eq!(seen, (0..10).collect::<Vec<_>>());
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// PyTorch: `torch.utils.data.DistributedSampler` and `BatchSampler`, without their repeated or dropped
/// samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributedSampler {
    len: usize,
    batch: usize,
    rank: usize,
    world: usize,
    seed: Option<u64>,
}

/// The samples of one rank in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// The step within the epoch, counted from 0.
    pub step: usize,
    /// The samples of this rank, in order; empty if the step has fewer samples than ranks.
    pub indices: Vec<usize>,
    /// The number of samples of all ranks in this step: what a summed loss is divided by.
    pub global_count: usize,
}

impl DistributedSampler {
    /// A sampler for a single device: `len` samples in their own order, `batch` of them a step.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there are no samples or the batch is empty.
    pub fn new(len: usize, batch: usize) -> Result<Self> {
        if len == 0 {
            return Err(Error::config("dataset length", "at least 1 sample", len));
        }
        if batch == 0 {
            return Err(Error::config(
                "batch size",
                "at least 1 sample a rank",
                batch,
            ));
        }
        Ok(Self {
            len,
            batch,
            rank: 0,
            world: 1,
            seed: None,
        })
    }

    /// The same for rank `rank` of `world` ranks; the batch size stays that of one rank.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there are no ranks, or `rank` is not one of them.
    pub fn for_rank(self, rank: usize, world: usize) -> Result<Self> {
        if world == 0 {
            return Err(Error::config("world size", "at least 1 rank", world));
        }
        if rank >= world {
            return Err(Error::config(
                "rank",
                format!("less than the world size {world}"),
                rank,
            ));
        }
        Ok(Self {
            rank,
            world,
            ..self
        })
    }

    /// The same in a random order, a new one each epoch; all ranks must pass the same seed.
    #[must_use]
    pub fn shuffled(self, seed: u64) -> Self {
        Self {
            seed: Some(seed),
            ..self
        }
    }

    /// The number of samples in the dataset.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // It never is: `new` refuses an empty dataset.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The number of steps in an epoch, the same on every rank.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.len.div_ceil(self.global_batch())
    }

    /// This rank's steps of an epoch.
    ///
    /// Costs the permutation once, then only the indices of the steps asked for: `epoch(e).skip(n)` goes to
    /// step `n` at once, for resuming within an epoch.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> Epoch {
        let order = self.seed.map(|seed| {
            let mut order: Vec<usize> = (0..self.len).collect();
            Stream::new(*b"sampling", seed, epoch, 0).shuffle(&mut order);
            order
        });
        Epoch {
            sampler: self.clone(),
            epoch,
            order,
            next: 0,
        }
    }

    /// One step of an epoch, or nothing behind the last.
    ///
    /// Costs the epoch's whole permutation; a loop asks [`epoch`](DistributedSampler::epoch) instead.
    #[must_use]
    pub fn batch(&self, epoch: u64, step: usize) -> Option<Step> {
        self.epoch(epoch).nth(step)
    }

    /// A product too large for `usize` is larger than any dataset, too: one step takes it all.
    fn global_batch(&self) -> usize {
        self.world.saturating_mul(self.batch)
    }

    /// The positions in the epoch's order that this rank takes, and the count over all ranks.
    fn part(&self, step: usize) -> (std::ops::Range<usize>, usize) {
        let start = step * self.global_batch();
        let count = self.global_batch().min(self.len - start);
        // The first `extra` ranks take one sample more. In a full batch there are none, and `each` is `batch`.
        let (each, extra) = (count / self.world, count % self.world);
        let begin = start + self.rank * each + self.rank.min(extra);
        let end = begin + each + usize::from(self.rank < extra);
        (begin..end, count)
    }
}

/// The steps of one rank in one epoch: an iterator of known length whose `skip` is cheap.
#[derive(Debug, Clone)]
pub struct Epoch {
    sampler: DistributedSampler,
    epoch: u64,
    /// `None` for the dataset's own order.
    order: Option<Vec<usize>>,
    next: usize,
}

impl Iterator for Epoch {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.next >= self.sampler.steps() {
            return None;
        }
        let step = self.next;
        self.next += 1;
        let (positions, global_count) = self.sampler.part(step);
        let indices = match &self.order {
            Some(order) => order[positions].to_vec(),
            None => positions.collect(),
        };
        Some(Step {
            epoch: self.epoch,
            step,
            indices,
            global_count,
        })
    }

    fn nth(&mut self, n: usize) -> Option<Step> {
        self.next = self.next.saturating_add(n);
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.sampler.steps().saturating_sub(self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Epoch {}
impl FusedIterator for Epoch {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All ranks' steps of an epoch: `[rank][step]`.
    fn ranks(len: usize, batch: usize, world: usize, seed: Option<u64>) -> Vec<Vec<Step>> {
        (0..world)
            .map(|rank| {
                let sampler = DistributedSampler::new(len, batch).unwrap();
                let sampler = sampler.for_rank(rank, world).unwrap();
                match seed {
                    Some(seed) => sampler.shuffled(seed).epoch(5).collect(),
                    None => sampler.epoch(5).collect(),
                }
            })
            .collect()
    }

    /// The samples of all ranks in each step, rank after rank.
    fn global(ranks: &[Vec<Step>]) -> Vec<Vec<usize>> {
        (0..ranks[0].len())
            .map(|s| ranks.iter().flat_map(|r| r[s].indices.clone()).collect())
            .collect()
    }

    proptest! {
        #[test]
        fn every_sample_once_in_even_parts_and_equal_steps(
            len in 1..500_usize,
            batch in 1..20_usize,
            world in 1..12_usize,
            seed in proptest::option::of(any::<u64>()),
        ) {
            let ranks = ranks(len, batch, world, seed);
            let steps = len.div_ceil(world * batch);
            prop_assert!(ranks.iter().all(|steps_of| steps_of.len() == steps));

            let mut seen = global(&ranks).concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());

            for step in 0..steps {
                let counts: Vec<_> = ranks.iter().map(|r| r[step].indices.len()).collect();
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                prop_assert!(most - least <= 1 && *most <= batch, "{:?}", counts);
                let total: usize = counts.iter().sum();
                prop_assert!(ranks.iter().all(|r| r[step].global_count == total));
                prop_assert!(total == world * batch || step + 1 == steps);
            }
        }

        #[test]
        fn any_world_sees_the_same_global_batches(
            len in 1..500_usize,
            batch in 1..12_usize,
            world in 1..12_usize,
            seed in proptest::option::of(any::<u64>()),
        ) {
            let one_device = global(&ranks(len, world * batch, 1, seed));
            prop_assert_eq!(global(&ranks(len, batch, world, seed)), one_device);
        }

        #[test]
        fn any_step_can_be_asked_for_again(
            len in 1..200_usize,
            world in 1..5_usize,
            skip in 0..60_usize,
            seed: u64,
        ) {
            let sampler = DistributedSampler::new(len, 3).unwrap();
            let sampler = sampler.for_rank(world - 1, world).unwrap().shuffled(seed);
            let all: Vec<_> = sampler.epoch(1).collect();
            let resumed: Vec<_> = sampler.epoch(1).skip(skip).collect();
            prop_assert_eq!(&resumed[..], &all[skip.min(all.len())..]);
            prop_assert_eq!(sampler.batch(1, skip), all.get(skip).cloned());
            prop_assert_eq!(sampler.epoch(1).len(), sampler.steps());
        }
    }

    #[test]
    fn epochs_and_seeds_have_their_own_order() {
        let sampler = DistributedSampler::new(100, 100).unwrap();
        let order = |seed, epoch| {
            sampler
                .clone()
                .shuffled(seed)
                .batch(epoch, 0)
                .unwrap()
                .indices
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_eq!(
            sampler.batch(3, 0).unwrap().indices,
            (0..100).collect::<Vec<_>>()
        );
    }

    #[test]
    fn with_fewer_samples_than_ranks_the_last_ranks_have_none() {
        let counts: Vec<_> = ranks(2, 8, 4, None)
            .iter()
            .map(|r| r[0].indices.len())
            .collect();
        assert_eq!(counts, [1, 1, 0, 0]);
    }

    #[test]
    fn a_batch_beyond_usize_takes_the_whole_dataset() {
        let sampler = DistributedSampler::new(10, usize::MAX).unwrap();
        let sampler = sampler.for_rank(1, 2).unwrap();
        assert_eq!(sampler.steps(), 1);
        assert_eq!(sampler.batch(0, 0).unwrap().indices, [5, 6, 7, 8, 9]);
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let sampler = || DistributedSampler::new(10, 2).unwrap();
        let message = |result: Result<_>| result.unwrap_err().to_string();
        assert_eq!(
            message(DistributedSampler::new(0, 2)),
            "dataset length: expected at least 1 sample, found 0"
        );
        assert_eq!(
            message(DistributedSampler::new(10, 0)),
            "batch size: expected at least 1 sample a rank, found 0"
        );
        assert_eq!(
            message(sampler().for_rank(0, 0)),
            "world size: expected at least 1 rank, found 0"
        );
        assert_eq!(
            message(sampler().for_rank(4, 4)),
            "rank: expected less than the world size 4, found 4"
        );
    }
}
