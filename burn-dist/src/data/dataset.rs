//! The trait of datasets: samples by index. Order, batching and threads belong to the sampler and the loader.

use std::sync::Arc;

use crate::{Error, Result};

/// A collection of samples that can be fetched in any order.
///
/// One dataset may be read by several threads at once (ranks as threads share it through an [`Arc`]), and
/// [`get`](Dataset::get) must give the same sample for the same index every time: random augmentation belongs
/// to the batch or to [`get_in_epoch`](Dataset::get_in_epoch), where the epoch is known.
///
/// # Example
///
/// ```
/// use burn_dist::data::Dataset;
/// use burn_dist::Result;
///
/// struct Squares;
///
/// impl Dataset for Squares {
///     type Item = usize;
///
///     fn len(&self) -> usize {
///         100
///     }
///
///     fn get(&self, index: usize) -> Result<usize> {
///         Ok(index * index)
///     }
/// }
///
/// assert_eq!(Squares.get(7)?, 49);
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub trait Dataset: Send + Sync {
    /// One sample.
    type Item: Send;

    /// The number of samples; it must not change while a loader runs.
    fn len(&self) -> usize;

    /// The sample at `index`, which is below [`len`](Dataset::len).
    ///
    /// # Errors
    ///
    /// Whatever keeps the sample from being read. The loader adds the index to the error and hands it to the
    /// training loop.
    fn get(&self, index: usize) -> Result<Self::Item>;

    /// The sample as an epoch shows it, for a data set that augments what it reads: small results leave it then, in
    /// place of whole images. Without augmentation it is [`get`](Dataset::get), in every epoch.
    ///
    /// It may depend on the seed, the epoch and the index alone, never on the rank or the thread.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Dataset::get).
    fn get_in_epoch(&self, index: usize, _epoch: u64) -> Result<Self::Item> {
        self.get(index)
    }

    /// True if there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<D: Dataset + ?Sized> Dataset for Arc<D> {
    type Item = D::Item;

    fn len(&self) -> usize {
        (**self).len()
    }

    fn get(&self, index: usize) -> Result<Self::Item> {
        (**self).get(index)
    }

    fn get_in_epoch(&self, index: usize, epoch: u64) -> Result<D::Item> {
        (**self).get_in_epoch(index, epoch)
    }
}

/// Samples that already lie in memory; each access clones one.
impl<T: Clone + Send + Sync> Dataset for Vec<T> {
    type Item = T;

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn get(&self, index: usize) -> Result<T> {
        self.as_slice()
            .get(index)
            .cloned()
            .ok_or_else(|| Error::Config {
                what: "sample index".into(),
                expected: format!("less than the {} samples there are", self.as_slice().len()),
                found: index.to_string(),
            })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_a_dataset_also_behind_an_arc() {
        let shared = Arc::new(vec!['a', 'b']);
        assert_eq!(Dataset::len(&shared), 2);
        assert!(!Dataset::is_empty(&shared));
        assert_eq!(shared.get(1).unwrap(), 'b');
    }

    #[test]
    fn an_index_behind_the_end_is_an_error() {
        let error = Dataset::get(&vec![1, 2, 3], 3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sample index: expected less than the 3 samples there are, found 3"
        );
    }
}
