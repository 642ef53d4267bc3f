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
    /// The step within the epoch, counted from 0; see [`DistributedSampler::epoch_from`] for one that resumes.
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
        self.steps_from(0)
    }

    /// The number of steps that [`epoch_from`](Self::epoch_from) gives from this sample on: 0 behind the last.
    #[must_use]
    pub fn steps_from(&self, first: usize) -> usize {
        let left = self.len.saturating_sub(first);
        if self.drop_last {
            left / self.batch
        } else {
            left.div_ceil(self.batch)
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
    /// step `n` at once.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> Epoch {
        self.epoch_from(epoch, 0)
    }

    /// This rank's steps of the rest of an epoch, which begins with sample number `first` of the epoch's order.
    ///
    /// The first step takes the global batch that begins there, so samples that other ranks, or batches of another
    /// size, have taken before are not taken again, and none is missed. Nothing comes if `first` is behind the last
    /// sample. [`Batch::drop_last`] leaves out the samples at the end that do not fill a step: fewer than a global
    /// batch, and not necessarily those that the whole epoch would leave out. Steps are numbered as if all before
    /// `first` had been cut alike, a smaller step among them counted as one.
    ///
    /// ```
    /// use burn_dist::data::{Batch, DistributedSampler};
    ///
    /// // Two ranks have taken one step of 3 samples each; one rank goes on with 2 samples a step.
    /// let sampler = DistributedSampler::new(10, Batch::per_rank(2), (0, 1))?;
    /// let rest: Vec<_> = sampler.epoch_from(0, 6).map(|step| step.indices).collect();
    /// assert_eq!(rest, [[6, 7], [8, 9]]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    #[must_use]
    pub fn epoch_from(&self, epoch: u64, first: usize) -> Epoch {
        let order = self.seed.map(|seed| {
            let mut order: Vec<usize> = (0..self.len).collect();
            Stream::new(*b"sampling", seed, epoch, 0).shuffle(&mut order);
            order.into()
        });
        Epoch {
            sampler: self.clone(),
            epoch,
            order,
            first,
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

    /// The positions in the epoch's order that this rank takes of the global batch that begins at `start`, and
    /// the count over all ranks.
    fn part(&self, start: usize) -> (std::ops::Range<usize>, usize) {
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
    /// The position in the order at which the first step begins.
    first: usize,
    /// Steps from there on that were taken or passed over.
    next: usize,
}

impl Epoch {
    fn left(&self) -> usize {
        self.sampler
            .steps_from(self.first)
            .saturating_sub(self.next)
    }
}

impl Iterator for Epoch {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.left() == 0 {
            return None;
        }
        let batch = self.sampler.batch;
        let (positions, global_count) = self.sampler.part(self.first + self.next * batch);
        let step = self.first.div_ceil(batch) + self.next;
        self.next += 1;
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
        let left = self.left();
        (left, Some(left))
    }
}

impl ExactSizeIterator for Epoch {}
impl FusedIterator for Epoch {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
