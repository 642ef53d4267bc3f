//! The loader: batches of samples, made ahead on background threads.
//!
//! Reading and decoding take time in which a device would idle. The loader knows no device: the closure that
//! builds a batch decides if it holds host arrays or tensors.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::batches::BatchSender;
use super::{Batch, BatchInfo, Batches, Dataset, DistributedSampler, Step};
use crate::{Error, Result, World};

/// Batches that are made ahead by default: one that is ready, and one that is being made.
const PREFETCH: usize = 2;

/// Makes one rank's batches of each epoch on background threads.
///
/// Each epoch starts one thread, or more ([`with_workers`](Loader::with_workers)), which stay a few batches
/// ahead of the training loop and hold as many batches in memory ([`with_prefetch`](Loader::with_prefetch)). Batches
/// come in the order of the steps and do not depend on the threads' timing: the same epoch gives the same
/// batches every time.
///
/// # Example
///
/// ```
/// use burn_dist::prelude::*;
///
/// let sums = Threads::new(2).run(|world| {
///     let samples = vec![10.0, 20.0, 30.0, 40.0, 50.0];
///     // Here a batch is a weighted sum; usually it holds tensors.
///     let loader = Loader::new(&world, samples, Batch::per_rank(2), |items, info| {
///         items.iter().zip(&info.weights).map(|(x, w)| x * w).sum::<f32>()
///     })?;
///     loader.epoch(0)?.collect::<Result<Vec<_>>>()
/// })?;
/// // The last sample is rank 0's; rank 1 gets padding of weight 0.
/// assert_eq!(sums, [[30.0, 50.0], [70.0, 0.0]]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// PyTorch: `torch.utils.data.DataLoader` with a `DistributedSampler`.
pub struct Loader<B> {
    sampler: DistributedSampler,
    prefetch: usize,
    workers: usize,
    make: Arc<Make<B>>,
}

/// Makes the batch of a step, or nothing if it is no longer wanted.
type Make<B> = dyn Fn(Step, &BatchSender<B>) -> Option<Result<B>> + Send + Sync;

impl<B: Send + 'static> Loader<B> {
    /// This rank's share of `dataset`, with `collate` making a batch of the items. All ranks call it.
    ///
    /// `collate` runs on a background thread. It always gets at least one item: a rank without samples in a
    /// step gets the dataset's first one with weight 0.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for an empty dataset, and for a batch that is empty, that the ranks do not divide, or
    /// of which [`drop_last`](Batch::drop_last) leaves none.
    pub fn new<D: Dataset + 'static>(
        world: &World,
        dataset: D,
        batch: Batch,
        collate: impl Fn(Vec<D::Item>, &BatchInfo) -> B + Send + Sync + 'static,
    ) -> Result<Self> {
        let rank = (world.rank(), world.size());
        let sampler = DistributedSampler::new(dataset.len(), batch, rank)?;
        Self::with_sampler(dataset, sampler, collate)
    }

    /// All of `dataset` on every rank that calls it: each reads the same samples.
    ///
    /// # Errors
    ///
    /// As [`new`](Loader::new).
    pub fn replicated<D: Dataset + 'static>(
        dataset: D,
        batch: Batch,
        collate: impl Fn(Vec<D::Item>, &BatchInfo) -> B + Send + Sync + 'static,
    ) -> Result<Self> {
        let sampler = DistributedSampler::new(dataset.len(), batch, (0, 1))?;
        Self::with_sampler(dataset, sampler, collate)
    }

    /// The samples of `dataset` that `sampler` takes, in its order.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the sampler was made for another number of samples than the dataset has.
    pub fn with_sampler<D: Dataset + 'static>(
        dataset: D,
        sampler: DistributedSampler,
        collate: impl Fn(Vec<D::Item>, &BatchInfo) -> B + Send + Sync + 'static,
    ) -> Result<Self> {
        if dataset.len() != sampler.len() {
            return Err(Error::Config {
                what: "data loader".into(),
                expected: format!("a sampler over the dataset's {} samples", dataset.len()),
                found: format!("one over {}", sampler.len()),
            });
        }
        let make = move |step: Step, sender: &BatchSender<B>| {
            let info = BatchInfo::of(step);
            let mut items = Vec::with_capacity(info.indices.len());
            for &index in &info.indices {
                if sender.is_closed() {
                    return None;
                }
                match sample(&dataset, index, info.epoch) {
                    Ok(item) => items.push(item),
                    Err(error) => return Some(Err(error)),
                }
            }
            let what = || format!("batch of epoch {}, step {}", info.epoch, info.step);
            Some(unless_panicked(what, || collate(items, &info)))
        };
        Ok(Self {
            sampler,
            prefetch: PREFETCH,
            workers: 1,
            make: Arc::new(make),
        })
    }

    /// The same in a random order, a new one each epoch; all ranks must pass the same seed.
    #[must_use]
    pub fn shuffled(self, seed: u64) -> Self {
        Self {
            sampler: self.sampler.shuffled(seed),
            ..self
        }
    }

    /// The same with so many threads (1 unless told otherwise), which make different batches at the same
    /// time.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if `workers` is 0.
    pub fn with_workers(self, workers: usize) -> Result<Self> {
        if workers == 0 {
            return Err(Error::config("workers", "at least 1 thread", 0));
        }
        Ok(Self { workers, ..self })
    }

    /// The same, staying `batches` ahead of the training loop (2 unless told otherwise), or one for each
    /// worker if those are more.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if `batches` is 0.
    pub fn with_prefetch(self, batches: usize) -> Result<Self> {
        if batches == 0 {
            return Err(Error::Config {
                what: "prefetch".into(),
                expected: "at least 1 batch ahead".into(),
                found: "0".into(),
            });
        }
        Ok(Self {
            prefetch: batches,
            ..self
        })
    }

    /// This rank's batches of an epoch; starts the threads.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if no thread can be started. The iterator's items are the dataset's own errors, with
    /// the sample's index, and [`Error::Config`] for a panic in the dataset or in the closure.
    pub fn epoch(&self, epoch: u64) -> Result<Batches<B>> {
        self.resume(epoch, 0)
    }

    /// This rank's batches of the rest of an epoch, of which all ranks together have seen `seen` samples.
    ///
    /// The ranks and the batch size may have been others until then; see [`DistributedSampler::epoch_from`]. What
    /// comes before is not loaded. Nothing comes if all samples were seen.
    ///
    /// # Errors
    ///
    /// Those of [`epoch`](Loader::epoch).
    pub fn resume(&self, epoch: u64, seen: usize) -> Result<Batches<B>> {
        let (sampler, make, workers) = (self.sampler.clone(), self.make.clone(), self.workers);
        let count = sampler.steps_from(seen);
        // The order is drawn once, by the thread that comes first.
        let order = Arc::new(OnceLock::new());
        Batches::start(count, self.prefetch, workers, move |worker, sender| {
            let steps = order
                .get_or_init(|| sampler.epoch_from(epoch, seen))
                .clone();
            for step in steps.skip(worker).step_by(workers) {
                let Some(batch) = make(step, sender) else {
                    return;
                };
                let failed = batch.is_err();
                if !sender.send(batch) || failed {
                    return;
                }
            }
        })
    }

    /// The number of batches in an epoch, the same on every rank.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.sampler.steps()
    }

    /// The number of samples of all ranks in a full step.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.sampler.global_batch()
    }

    /// The seed of the order, if it is random.
    #[must_use]
    pub fn seed(&self) -> Option<u64> {
        self.sampler.seed()
    }

    /// Which samples come in which step.
    pub(crate) fn sampler(&self) -> &DistributedSampler {
        &self.sampler
    }

    /// The number of samples in an epoch, of all ranks together.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.sampler.samples()
    }
}

impl<B> fmt::Debug for Loader<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("sampler", &self.sampler)
            .field("prefetch", &self.prefetch)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// A sample, or an error that names it.
fn sample<D: Dataset>(dataset: &D, index: usize, epoch: u64) -> Result<D::Item> {
    let get = || dataset.get_in_epoch(index, epoch);
    unless_panicked(|| format!("sample {index}"), get)?.map_err(|error| match error {
        Error::File {
            path,
            expected,
            found,
        } => Error::File {
            path: format!("sample {index}: {path}"),
            expected,
            found,
        },
        other => Error::Config {
            what: format!("sample {index}"),
            expected: "an item of the dataset".into(),
            found: other.to_string(),
        },
    })
}

/// Turns a panic into an error: the consumer is on another thread and would wait for nothing.
fn unless_panicked<T>(what: impl Fn() -> String, run: impl FnOnce() -> T) -> Result<T> {
    // Nothing that the closure may have left half done is used again: the epoch ends with the error.
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| Error::Config {
        what: what(),
        expected: "no panic".into(),
        found: message(&*payload).into(),
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a message"
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
