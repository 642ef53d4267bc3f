//! How many samples a step takes, and what becomes of those that do not fill one.

use crate::{Error, Result};

/// How many samples a step takes, and what becomes of those at the end of an epoch.
///
/// ```
/// use burn_dist::data::Batch;
///
/// let eight_on_each = Batch::per_rank(8);
/// let as_on_one_device = Batch::global(32); // an error on ranks that do not divide it
/// let without_the_rest = Batch::per_rank(8).drop_last();
/// # let _ = (eight_on_each, as_on_one_device, without_the_rest);
/// ```
///
/// # Source
/// PyTorch: `batch_size` and `drop_last` of `DataLoader`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Batch {
    samples: usize,
    per_rank: bool,
    uneven: bool,
    drop_last: bool,
}

impl Batch {
    /// So many samples on each rank: more ranks make a larger step.
    pub fn per_rank(samples: usize) -> Self {
        Self {
            samples,
            per_rank: true,
            uneven: false,
            drop_last: false,
        }
    }

    /// So many samples over all ranks, whatever their number: the steps of one device with that batch.
    ///
    /// Ranks that do not divide it are an error, unless [`uneven`](Self::uneven) asks for them.
    pub fn global(samples: usize) -> Self {
        Self {
            per_rank: false,
            ..Self::per_rank(samples)
        }
    }

    /// Lets the ranks' shares of a global batch differ by one sample, or be padding of weight 0.
    ///
    /// Only a sum of losses divided by the samples of all ranks
    /// ([`backward_sum`](crate::World::backward_sum)) is right then; the mean of per-rank means is not.
    pub fn uneven(mut self) -> Self {
        self.uneven = true;
        self
    }

    /// Leaves out the samples at the end of an epoch's order that do not fill a step, so that all steps
    /// are equal. Without it they make a last, smaller step, and each sample is seen once.
    pub fn drop_last(mut self) -> Self {
        self.drop_last = true;
        self
    }

    /// Samples of all ranks in a full step.
    pub(super) fn of_all(self, world: usize) -> Result<usize> {
        if self.samples == 0 {
            let who = if self.per_rank { "a rank" } else { "a step" };
            return Err(Error::config(
                "batch size",
                format!("at least 1 sample {who}"),
                0,
            ));
        }
        if self.per_rank {
            // More than `usize` holds is more than any dataset has, too: one step takes it all.
            return Ok(self.samples.saturating_mul(world));
        }
        if !self.uneven && !self.samples.is_multiple_of(world) {
            let expected = format!(
                "a number of samples that {world} ranks divide; or Batch::uneven(), with a summed loss"
            );
            return Err(Error::config("the global batch", expected, self.samples));
        }
        Ok(self.samples)
    }

    pub(super) fn drops_last(self) -> bool {
        self.drop_last
    }
}
