//! The loader: batches of samples, made ahead on background threads.
//!
//! Reading and decoding take time in which a device would idle. The loader knows no device: the closure that
//! builds a batch decides if it holds host arrays or tensors.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::batches::BatchSender;
use super::{Batch, Batches, Dataset, DistributedSampler, Step};
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

/// The description of a batch, for the closure that builds it.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchInfo {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// The step within the epoch, counted from 0.
    pub step: usize,
    /// The index of each item in the dataset, in the items' order.
    pub indices: Vec<usize>,
    /// The weight of each item's loss: 1 for a sample, 0 for the padding of a rank that has none.
    pub weights: Vec<f32>,
    /// The number of samples, padding not counted: the sum of the weights.
    pub count: usize,
    /// The number of samples of all ranks in this step: what the summed loss is divided by.
    pub global_count: usize,
}

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
                match sample(&dataset, index) {
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

    /// The same from `step` on, without loading what comes before; nothing if `step` is behind the last.
    ///
    /// # Errors
    ///
    /// Those of [`epoch`](Loader::epoch).
    pub fn resume(&self, epoch: u64, step: usize) -> Result<Batches<B>> {
        let (sampler, make, workers) = (self.sampler.clone(), self.make.clone(), self.workers);
        let count = self.steps().saturating_sub(step);
        // The order is drawn once, by the thread that comes first.
        let order = Arc::new(OnceLock::new());
        Batches::start(count, self.prefetch, workers, move |worker, sender| {
            let steps = order.get_or_init(|| sampler.epoch(epoch)).clone();
            for step in steps.skip(step).skip(worker).step_by(workers) {
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

impl BatchInfo {
    /// Adds the padding to a step without samples.
    fn of(step: Step) -> Self {
        let count = step.indices.len();
        let (indices, weights) = if count == 0 {
            (vec![0], vec![0.0])
        } else {
            (step.indices, vec![1.0; count])
        };
        Self {
            epoch: step.epoch,
            step: step.step,
            indices,
            weights,
            count,
            global_count: step.global_count,
        }
    }
}

/// A sample, or an error that names it.
fn sample<D: Dataset>(dataset: &D, index: usize) -> Result<D::Item> {
    unless_panicked(|| format!("sample {index}"), || dataset.get(index))?.map_err(|error| {
        match error {
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
        }
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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    /// Ten samples, of which number 6 may go wrong.
    #[derive(Default)]
    struct Ten {
        on_six: Option<fn() -> Result<usize>>,
        reads: Arc<AtomicUsize>,
    }

    impl Dataset for Ten {
        type Item = usize;

        fn len(&self) -> usize {
            10
        }

        fn get(&self, index: usize) -> Result<usize> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            match self.on_six {
                Some(fail) if index == 6 => fail(),
                _ => Ok(index),
            }
        }
    }

    fn loader(dataset: Ten) -> Loader<Vec<usize>> {
        Loader::replicated(dataset, Batch::per_rank(2), |items, _| items).unwrap()
    }

    #[test]
    fn batches_come_in_the_samplers_order() {
        let sampler = DistributedSampler::new(10, Batch::per_rank(3), (0, 1)).unwrap();
        let sampler = sampler.shuffled(7);
        let expected: Vec<_> = sampler.epoch(4).map(|step| step.indices).collect();
        for workers in [1, 2, 3, 7] {
            let loader = Loader::with_sampler(Ten::default(), sampler.clone(), |items, info| {
                assert_eq!(items, info.indices);
                // The first batches take longest.
                sleep(Duration::from_millis(10 / (1 + info.step as u64)));
                items
            });
            let loader = loader.unwrap().with_workers(workers).unwrap();
            assert_eq!(loader.steps(), 4);
            let all: Result<Vec<_>> = loader.epoch(4).unwrap().collect();
            assert_eq!(all.unwrap(), expected, "{workers} workers");
            let resumed: Result<Vec<_>> = loader.resume(4, 2).unwrap().collect();
            assert_eq!(resumed.unwrap(), expected[2..], "{workers} workers");
            assert_eq!(loader.resume(4, 9).unwrap().count(), 0);
        }
    }

    #[test]
    fn the_thread_stays_as_many_batches_ahead_as_asked() {
        let ten = Ten::default();
        let reads = ten.reads.clone();
        let mut batches = loader(ten).with_prefetch(2).unwrap().epoch(0).unwrap();
        let settles_at = |count| {
            while reads.load(Ordering::SeqCst) < count {
                sleep(Duration::from_millis(1));
            }
            // Time to read on, if it would.
            sleep(Duration::from_millis(50));
            assert_eq!(reads.load(Ordering::SeqCst), count);
        };
        settles_at(4);
        batches.next();
        settles_at(6);
    }

    #[test]
    fn leaving_early_stops_the_thread() {
        let ten = Ten::default();
        let reads = Arc::downgrade(&ten.reads);
        let loader = loader(ten);
        let mut batches = loader.epoch(0).unwrap();
        assert_eq!(batches.next().unwrap().unwrap(), [0, 1]);
        drop(batches);
        drop(loader);
        // The dataset is gone, so the thread that held it is.
        assert_eq!(reads.strong_count(), 0);
    }

    /// Batches 0 to 2 arrive, batch 3 is the error, and then the epoch is over: with any number of workers.
    fn error_of(on_six: fn() -> Result<usize>) -> String {
        let of = |workers| {
            let ten = Ten {
                on_six: Some(on_six),
                ..Ten::default()
            };
            let loader = loader(ten).with_workers(workers).unwrap();
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(batches.by_ref().take(3).filter(Result::is_ok).count(), 3);
            let error = batches.next().unwrap().unwrap_err();
            assert!(batches.next().is_none());
            error.to_string()
        };
        assert_eq!(of(1), of(3));
        of(1)
    }

    #[test]
    fn several_workers_work_at_the_same_time() {
        let meeting = Arc::new(std::sync::Barrier::new(3));
        // Each of three batches waits until the others are being made, too.
        let collate = move |items: Vec<usize>, _: &BatchInfo| {
            meeting.wait();
            items
        };
        let six: Vec<usize> = (0..6).collect();
        let loader = Loader::replicated(six, Batch::per_rank(2), collate).unwrap();
        let loader = loader.with_workers(3).unwrap();
        let all: Result<Vec<_>> = loader.epoch(0).unwrap().collect();
        assert_eq!(all.unwrap(), [[0, 1], [2, 3], [4, 5]]);
    }

    #[test]
    fn an_error_or_panic_of_the_dataset_arrives_and_names_the_sample() {
        let torn = || {
            Err(Error::File {
                path: "a.bin".into(),
                expected: "8 bytes".into(),
                found: "7".into(),
            })
        };
        assert_eq!(error_of(torn), "sample 6: a.bin: expected 8 bytes, found 7");
        assert_eq!(
            error_of(|| Dataset::get(&vec![0], 1)),
            "sample 6: expected an item of the dataset, \
             found sample index: expected less than the 1 samples there are, found 1"
        );
        assert_eq!(
            error_of(|| panic!("out of {}", "cheese")),
            "sample 6: expected no panic, found out of cheese"
        );
    }

    #[test]
    fn a_panic_of_the_batch_closure_names_the_step() {
        let loader = Loader::replicated(Ten::default(), Batch::per_rank(2), |_, info| {
            assert!(info.step < 1, "too late");
        });
        let error = loader.unwrap().epoch(3).unwrap().nth(1).unwrap();
        assert_eq!(
            error.unwrap_err().to_string(),
            "batch of epoch 3, step 1: expected no panic, found too late"
        );
    }

    #[test]
    fn a_rank_without_samples_gets_padding_of_weight_zero() {
        // Steps of 4 over 3 ranks, 10 samples: the last step has 1 sample, for rank 0.
        let info = |rank| {
            let sampler = DistributedSampler::new(10, Batch::per_rank(3), (rank, 3)).unwrap();
            let collate = |items, info: &BatchInfo| (items, info.clone());
            let loader = Loader::with_sampler(Ten::default(), sampler, collate);
            let (items, info) = loader.unwrap().epoch(0).unwrap().last().unwrap().unwrap();
            assert_eq!(items, info.indices);
            (info.indices, info.weights, info.count, info.global_count)
        };
        assert_eq!(info(0), (vec![9], vec![1.0], 1, 1));
        assert_eq!(info(1), (vec![0], vec![0.0], 0, 1));
        assert_eq!(info(2), (vec![0], vec![0.0], 0, 1));
    }

    #[test]
    fn what_cannot_work_is_an_error() {
        let sampler = DistributedSampler::new(9, Batch::per_rank(2), (0, 1)).unwrap();
        let error = Loader::with_sampler(Ten::default(), sampler, |_, _| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "data loader: expected a sampler over the dataset's 10 samples, found one over 9"
        );
        let error = loader(Ten::default()).with_prefetch(0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "prefetch: expected at least 1 batch ahead, found 0"
        );
        let error = loader(Ten::default()).with_workers(0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "workers: expected at least 1 thread, found 0"
        );
    }
}
