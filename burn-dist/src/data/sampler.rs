//! The sampler: the indices of a rank's samples in each step.
//!
//! It is pure arithmetic over a seeded order, so that it can be tested without a device or a file, and computed
//! again for any epoch and step after a restart.

use std::iter::FusedIterator;
use std::sync::Arc;

use super::{Batch, Stream};
use crate::{Error, Result};

/// Cuts each epoch into global batches and gives every rank its part.
///
/// The order of an epoch depends on the length, the seed and the epoch only. Step `s` takes the next global
/// batch of it; rank `r` takes the `r`-th part of those samples. Every sample is taken once (but for those that
/// [`Batch::drop_last`] leaves out), all ranks have the same number of steps, and within a step the ranks' counts
/// differ by at most one (see the [module](crate::data) for what that asks of the loss).
///
/// A [`Loader`](super::Loader) makes its own from the world; this is for programs that load in another way.
///
/// The sampler itself is a few numbers. An epoch in a shuffled order costs one permutation: 8 bytes and about
/// 15 ns a sample.
///
/// # Example
///
/// ```
/// use burn_dist::data::{Batch, DistributedSampler};
///
/// // Ten samples, three ranks, two samples a rank and step: 6 samples, then the remaining 4.
/// let mut seen = Vec::new();
/// for rank in 0..3 {
///     let sampler = DistributedSampler::new(10, Batch::per_rank(2), (rank, 3))?.shuffled(42);
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
    /// Samples of all ranks in a full step.
    batch: usize,
    drop_last: bool,
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
    /// The part of rank `rank` of `world` ranks in `len` samples, in their own order.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there are no samples or no ranks, `rank` is not one of them, the batch is empty or not
    /// what the ranks divide, or no step is left without the last samples.
    pub fn new(len: usize, batch: Batch, (rank, world): (usize, usize)) -> Result<Self> {
        if len == 0 {
            return Err(Error::config("dataset length", "at least 1 sample", len));
        }
        if world == 0 {
            return Err(Error::config("world size", "at least 1 rank", world));
        }
        if rank >= world {
            let expected = format!("less than the world size {world}");
            return Err(Error::config("rank", expected, rank));
        }
        let (of_all, drop_last) = (batch.of_all(world)?, batch.drops_last());
        if drop_last && len < of_all {
            let expected = format!("at least the {of_all} samples of one step, as drop_last is on");
            return Err(Error::config("dataset length", expected, len));
        }
        Ok(Self {
            len,
            batch: of_all,
            drop_last,
            rank,
            world,
            seed: None,
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

    /// The number of samples of all ranks in a full step.
    #[must_use]
    pub fn global_batch(&self) -> usize {
        self.batch
    }

    /// The seed of the order, if it is random.
    #[must_use]
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// The number of steps in an epoch, the same on every rank.
    #[must_use]
    pub fn steps(&self) -> usize {
        if self.drop_last {
            self.len / self.batch
        } else {
            self.len.div_ceil(self.batch)
        }
    }

    /// The number of samples that an epoch takes, of all ranks together.
    #[must_use]
    pub fn samples(&self) -> usize {
        if self.drop_last {
            self.len / self.batch * self.batch
        } else {
            self.len
        }
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
            order.into()
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

    /// The positions in the epoch's order that this rank takes, and the count over all ranks.
    fn part(&self, step: usize) -> (std::ops::Range<usize>, usize) {
        let start = step * self.batch;
        let count = self.batch.min(self.len - start);
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
    order: Option<Arc<[usize]>>,
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
                let batch = Batch::per_rank(batch);
                let sampler = DistributedSampler::new(len, batch, (rank, world)).unwrap();
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
            let rank = (world - 1, world);
            let sampler = DistributedSampler::new(len, Batch::per_rank(3), rank).unwrap();
            let sampler = sampler.shuffled(seed);
            let all: Vec<_> = sampler.epoch(1).collect();
            let resumed: Vec<_> = sampler.epoch(1).skip(skip).collect();
            prop_assert_eq!(&resumed[..], &all[skip.min(all.len())..]);
            prop_assert_eq!(sampler.batch(1, skip), all.get(skip).cloned());
            prop_assert_eq!(sampler.epoch(1).len(), sampler.steps());
        }
    }

    #[test]
    fn epochs_and_seeds_have_their_own_order() {
        let sampler = DistributedSampler::new(100, Batch::per_rank(100), (0, 1)).unwrap();
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
        let all = Batch::per_rank(usize::MAX);
        let sampler = DistributedSampler::new(10, all, (1, 2)).unwrap();
        assert_eq!(sampler.steps(), 1);
        assert_eq!(sampler.batch(0, 0).unwrap().indices, [5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_global_batch_is_that_of_one_device_in_any_world() {
        let of = |world| -> Vec<Vec<usize>> {
            let parts = (0..world).map(|rank| {
                let sampler =
                    DistributedSampler::new(29, Batch::global(12).uneven(), (rank, world));
                sampler
                    .unwrap()
                    .shuffled(3)
                    .epoch(1)
                    .map(|step| step.indices)
                    .collect()
            });
            let parts: Vec<Vec<Vec<usize>>> = parts.collect();
            (0..parts[0].len())
                .map(|step| parts.iter().flat_map(|part| part[step].clone()).collect())
                .collect()
        };
        for world in [2, 3, 5, 7, 13] {
            assert_eq!(of(world), of(1), "{world} ranks");
        }
    }

    #[test]
    fn without_the_last_samples_all_steps_are_full() {
        for (len, world) in [(29, 1), (29, 3), (12, 2), (24, 4)] {
            for rank in 0..world {
                let batch = Batch::global(12).drop_last();
                let sampler = DistributedSampler::new(len, batch, (rank, world)).unwrap();
                let steps: Vec<_> = sampler.epoch(0).collect();
                assert_eq!((steps.len(), sampler.steps()), (len / 12, len / 12));
                assert_eq!(sampler.samples(), len / 12 * 12);
                assert!(steps.iter().all(|step| step.indices.len() == 12 / world));
                assert!(steps.iter().all(|step| step.global_count == 12));
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let message = |len, batch, rank| {
            let sampler = DistributedSampler::new(len, batch, rank);
            sampler.unwrap_err().to_string()
        };
        let two = Batch::per_rank(2);
        for (found, wanted) in [
            (
                message(0, two, (0, 1)),
                "dataset length: expected at least 1 sample, found 0",
            ),
            (
                message(10, Batch::per_rank(0), (0, 1)),
                "batch size: expected at least 1 sample a rank, found 0",
            ),
            (
                message(10, Batch::global(0), (0, 1)),
                "batch size: expected at least 1 sample a step, found 0",
            ),
            (
                message(10, two, (0, 0)),
                "world size: expected at least 1 rank, found 0",
            ),
            (
                message(10, two, (4, 4)),
                "rank: expected less than the world size 4, found 4",
            ),
            (
                message(10, Batch::global(8), (0, 3)),
                "the global batch: expected a number of samples that 3 ranks divide; or \
                 Batch::uneven(), with a summed loss, found 8",
            ),
            (
                message(7, Batch::per_rank(4).drop_last(), (1, 2)),
                "dataset length: expected at least the 8 samples of one step, as drop_last is on, \
                 found 7",
            ),
        ] {
            assert_eq!(found, wanted);
        }
    }
}
