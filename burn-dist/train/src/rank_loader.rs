//! Batches whose samples do not depend on the number of ranks, as a data loader of Burn's.

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use burn_dist::data::{Batch, Batches, Dataset, DistributedSampler, Loader};
use burn_dist::{Error, Result, World};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The batches of [`burn_dist::data::Loader`] for a `Learner`: those of one device, divided over the ranks.
///
/// A step takes the next `batch * ranks` samples of one order, which depends on the seed and the epoch
/// alone, and each rank reads its part of them. Burn's own loaders, sliced, give a rank the same samples in
/// every epoch. Batches are made on a thread, two ahead.
///
/// ```
/// use burn::data::dataloader::DataLoader;
/// use burn::data::dataloader::batcher::Batcher;
/// use burn::data::dataset::InMemDataset;
/// use burn::tensor::Device;
/// use burn_dist::launch::Threads;
/// use burn_dist_train::RankLoader;
///
/// struct Plain;
///
/// impl Batcher<u8, Vec<u8>> for Plain {
///     fn batch(&self, items: Vec<u8>, _: &Device) -> Vec<u8> {
///         items
///     }
/// }
///
/// let seen = Threads::new(2).run(|world| {
///     let loader = RankLoader::new(&world, InMemDataset::new((0..10).collect()), Plain, 2)?;
///     Ok(loader.iter().map(|batch| batch.unwrap_or_default()).collect::<Vec<_>>())
/// })?;
/// assert_eq!(seen[0], [vec![0, 1], vec![4, 5], vec![8]]);
/// assert_eq!(seen[1], [vec![2, 3], vec![6, 7], vec![9]]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub struct RankLoader<I, O> {
    items: Items<I>,
    batcher: Arc<dyn Batcher<I, O>>,
    device: Device,
    /// Nothing for items in their order, without ranks.
    sampler: Option<DistributedSampler>,
    /// What [`Sharded`](crate::Sharded) asks this rank's part by.
    part: Range<usize>,
    batch: usize,
    /// The epoch that the next call of `iter` gives.
    epoch: AtomicU64,
}

/// Items of a dataset, by their index in a range of it.
struct Items<I> {
    get: Arc<dyn Fn(usize) -> Result<I> + Send + Sync>,
    range: Range<usize>,
}

impl<I> Clone for Items<I> {
    fn clone(&self) -> Self {
        Self {
            get: self.get.clone(),
            range: self.range.clone(),
        }
    }
}

impl<I: Send> Dataset for Items<I> {
    type Item = I;

    fn len(&self) -> usize {
        self.range.len()
    }

    fn get(&self, index: usize) -> Result<I> {
        (self.get)(self.range.start + index)
    }
}

impl<I: Send + 'static, O: Send + 'static> RankLoader<I, O> {
    /// This rank's batches, of `batch` samples each, in the order of the dataset.
    ///
    /// # Errors
    /// [`Error::Config`] if there are no samples, or the batch is empty.
    pub fn new(
        world: &World,
        dataset: impl burn::data::dataset::Dataset<I> + 'static,
        batcher: impl Batcher<I, O> + 'static,
        batch: usize,
    ) -> Result<Self> {
        let len = dataset.len();
        let get = move |index| dataset.get(index).map_err(Error::user);
        Self::over(world, len, Arc::new(get), Arc::new(batcher), batch)
    }

    /// The same, of a dataset of burn-dist's.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_samples(
        world: &World,
        dataset: impl Dataset<Item = I> + 'static,
        batcher: impl Batcher<I, O> + 'static,
        batch: usize,
    ) -> Result<Self> {
        let len = dataset.len();
        let get = move |index| dataset.get(index);
        Self::over(world, len, Arc::new(get), Arc::new(batcher), batch)
    }

    fn over(
        world: &World,
        len: usize,
        get: Arc<dyn Fn(usize) -> Result<I> + Send + Sync>,
        batcher: Arc<dyn Batcher<I, O>>,
        batch: usize,
    ) -> Result<Self> {
        let (rank, ranks) = (world.rank(), world.size());
        let sampler = DistributedSampler::new(len, Batch::per_rank(batch), (rank, ranks))?;
        Ok(Self {
            items: Items { get, range: 0..len },
            batcher,
            device: world.device(),
            sampler: Some(sampler),
            part: part(len, rank, ranks),
            batch,
            epoch: AtomicU64::new(0),
        })
    }

    /// The same in another order in every epoch, which follows from `seed`.
    pub fn shuffled(self, seed: u64) -> Self {
        let sampler = self.sampler.map(|sampler| sampler.shuffled(seed));
        Self { sampler, ..self }
    }

    fn again(&self, device: &Device) -> Self {
        Self {
            items: self.items.clone(),
            batcher: self.batcher.clone(),
            device: device.clone(),
            sampler: self.sampler.clone(),
            part: self.part.clone(),
            batch: self.batch,
            epoch: AtomicU64::new(0),
        }
    }

    /// A loader without ranks over some of the items, in their order.
    fn some(&self, range: Range<usize>) -> Self {
        let mut some = self.again(&self.device);
        some.part = 0..range.len();
        let start = self.items.range.start;
        some.items.range = start + range.start..start + range.end;
        some.sampler = None;
        some
    }
}

/// The items of which a rank takes the slice of a loader.
pub(crate) fn part(items: usize, rank: usize, ranks: usize) -> Range<usize> {
    items * rank / ranks..items * (rank + 1) / ranks
}

impl<I: Send + 'static, O: Send + 'static> DataLoader<O> for RankLoader<I, O> {
    /// The batches of the next epoch.
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        Box::new(RankBatches {
            loader: self,
            epoch: self.epoch.fetch_add(1, Ordering::Relaxed),
            batches: None,
            done: 0,
        })
    }

    /// Items of all ranks.
    fn num_items(&self) -> usize {
        self.items.range.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<O>> {
        Arc::new(self.again(device))
    }

    /// This rank's batches for the slice that [`Sharded`](crate::Sharded) gives to this rank, and a loader
    /// without ranks for any other; its epochs are counted anew.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<O>> {
        if (start..end) == self.part {
            Arc::new(self.again(&self.device))
        } else {
            Arc::new(self.some(start..end))
        }
    }
}

impl<I, O> fmt::Debug for RankLoader<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RankLoader")
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

/// The batches of one epoch; the thread that makes them starts with the first one.
struct RankBatches<'a, I, O> {
    loader: &'a RankLoader<I, O>,
    epoch: u64,
    batches: Option<Batches<(usize, Option<O>)>>,
    /// Items of all ranks in the batches so far.
    done: usize,
}

impl<I: Send + 'static, O: Send + 'static> RankBatches<'_, I, O> {
    fn start(&self) -> Result<Batches<(usize, Option<O>)>> {
        let RankLoader {
            items,
            batcher,
            device,
            batch,
            ..
        } = self.loader;
        let sampler = match &self.loader.sampler {
            Some(sampler) => sampler.clone(),
            None => DistributedSampler::new(items.len(), Batch::per_rank(*batch), (0, 1))?,
        };
        let (batcher, device) = (batcher.clone(), device.clone());
        let loader = Loader::with_sampler(items.clone(), sampler, move |items, info| {
            // A rank without samples in the last step has ended: the strategy pads.
            let batch = (info.count > 0).then(|| batcher.batch(items, &device));
            (info.global_count, batch)
        })?;
        loader.epoch(self.epoch)
    }

    fn read(&mut self) -> Result<Option<O>> {
        if self.batches.is_none() {
            self.batches = Some(self.start()?);
        }
        let next = self.batches.as_mut().and_then(Iterator::next);
        let Some((count, batch)) = next.transpose()? else {
            return Ok(None);
        };
        self.done += count;
        Ok(batch)
    }
}

impl<I: Send + 'static, O: Send + 'static> Iterator for RankBatches<'_, I, O> {
    type Item = std::result::Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().map_err(DatasetError::new).transpose()
    }
}

impl<I: Send + 'static, O: Send + 'static> DataLoaderIterator<O> for RankBatches<'_, I, O> {
    fn progress(&self) -> Progress {
        Progress::new(self.done, self.loader.num_items(), Some("items".into()))
    }
}
