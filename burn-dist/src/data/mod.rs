//! Datasets, the distributed sampler, and the loader that makes batches in the background.
//!
//! # Exactness
//!
//! Training over several ranks should give what one device gives on the same data. For that, the samples
//! have to be the same too:
//!
//! 1. **Every sample once.** In an epoch each sample of the dataset goes to exactly one rank in exactly one
//!    step. Nothing is repeated, whatever the length and the number of ranks, and nothing is dropped unless
//!    asked for ([`Batch::drop_last`]).
//! 2. **The same global batches for every world.** Step `s` takes the next `world * batch` samples of one
//!    global order, which depends on the seed and the epoch alone, and rank `r` takes its part of them. Four
//!    ranks with 8 samples each, two with 16 and one device with 32 therefore see the same 32 samples in
//!    step `s`, and average the same gradient.
//! 3. **The same number of steps on every rank**, so that no rank waits in a collective for one that has
//!    already finished.
//!
//! So the last step of an epoch may be uneven. Its remaining samples are spread as evenly as possible: the
//! ranks' counts differ by at most one, and with fewer samples than ranks some ranks
//! have none. Those still take part, for their collectives are needed: the loader hands them one *padding
//! sample* with weight 0.
//!
//! So a training loop has to *sum* and not to *average*:
//!
//! - the local loss is `(per_sample_loss * weights).sum()`, with [`BatchInfo::weights`] being 1 for a
//!   sample and 0 for padding;
//! - the divisor is the number of samples in the step over all ranks, not over this one: the sum of
//!   [`BatchInfo::count`] over the ranks, which [`BatchInfo::global_count`] already holds.
//!
//! A mean per rank, averaged over the ranks, is the same thing only while all counts are equal; in an uneven
//! step it gives the samples of the shorter ranks more weight than the others'. The same goes for an
//! evaluation: sum the number of hits and the number of samples, and divide once.
//!
//! # Coming from PyTorch
//!
//! `torch.utils.data.DistributedSampler` makes all ranks equally long by *repeating* samples from the start
//! of the order (or, with `drop_last=True`, by dropping the tail). That lets a loop average local means,
//! but an epoch then holds some samples twice or not at all, a metric over the test set is slightly off,
//! and the result depends on the number of ranks. It also deals the order out with a stride and batches per
//! rank afterwards. Here the order is first cut into global batches and those are divided over the ranks,
//! which is what makes batches comparable between worlds. There is no `set_epoch` to forget either: the
//! epoch is an argument.
//!
//! # Parts
//!
//! - [`Dataset`]: samples by index;
//! - [`Subset`]: some of them, and [`random_split`]: two parts;
//! - [`Batch`]: how many a step takes, for each rank or over all;
//! - [`Loader`]: a rank's batches, made on background threads, a few ahead;
//! - [`DistributedSampler`]: the indices alone, pure arithmetic;
//! - [`Stream`]: random numbers addressed by what they are for, so that augmentation does not depend on
//!   which rank or thread does it.

mod batch;
mod batch_info;
mod batches;
mod dataset;
mod loader;
mod sampler;
mod stream;
mod subset;

pub use batch::Batch;
pub use batch_info::BatchInfo;
pub use batches::Batches;
pub use dataset::Dataset;
pub use loader::Loader;
pub use sampler::{DistributedSampler, Epoch, Step};
pub use stream::Stream;
pub use subset::{Subset, random_split};
