//! A data set whose labels are mapped to those of a checkpoint.

use super::Image;
use super::text::Text;
use burn_dist::Result;
use burn_dist::data::Dataset;
use std::sync::Arc;

/// A sample with a class.
pub trait Labelled {
    /// The number of its class.
    fn label_mut(&mut self) -> &mut u16;
}

impl Labelled for Image {
    fn label_mut(&mut self) -> &mut u16 {
        &mut self.label
    }
}

impl Labelled for Text {
    fn label_mut(&mut self) -> &mut u16 {
        &mut self.label
    }
}

/// A data set, with other numbers for its classes.
///
/// ```
/// use burn_dist::data::Dataset;
/// use burn_dist_models::data::{Relabelled, Synthetic};
///
/// let images = Synthetic::train(0, 20);
/// let turned: Vec<u16> = (0..10).rev().collect();
/// let other = Relabelled::new(images.clone(), turned);
/// assert_eq!(other.get(3)?.label, 9 - images.get(3)?.label);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Relabelled<D> {
    inner: D,
    /// The new number of each class.
    numbers: Arc<[u16]>,
}

impl<D> Relabelled<D> {
    /// The same samples; class `n` gets the number `numbers[n]`. A class without one keeps its own.
    pub fn new(inner: D, numbers: Vec<u16>) -> Self {
        Self {
            inner,
            numbers: numbers.into(),
        }
    }
}

impl<D: Dataset<Item: Labelled>> Relabelled<D> {
    fn relabelled(&self, mut sample: D::Item) -> D::Item {
        let label = sample.label_mut();
        if let Some(number) = self.numbers.get(usize::from(*label)) {
            *label = *number;
        }
        sample
    }
}

impl<D: Dataset<Item: Labelled>> Dataset for Relabelled<D> {
    type Item = D::Item;

    fn len(&self) -> usize {
        self.inner.len()
    }

    fn get(&self, index: usize) -> Result<Self::Item> {
        Ok(self.relabelled(self.inner.get(index)?))
    }

    fn get_in_epoch(&self, index: usize, epoch: u64) -> Result<Self::Item> {
        Ok(self.relabelled(self.inner.get_in_epoch(index, epoch)?))
    }
}
