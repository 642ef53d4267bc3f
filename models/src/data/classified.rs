//! The trait of batches of samples with classes, which an evaluation needs.

use burn::tensor::{Int, Tensor};

/// A batch of samples that have a class each.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_models::data::{Classified, ImageBatch};
///
/// let device = Device::flex().autodiff();
/// let batch = ImageBatch {
///     images: Tensor::zeros([2, 3, 32, 32], &device),
///     labels: Tensor::from_data([3, 0], &device),
///     weights: Tensor::from_data([1.0, 0.0], &device),
///     count: 1,
///     global_count: 1,
/// };
/// // The second image is padding.
/// assert_eq!((batch.labels().dims(), batch.count()), ([2], 1));
/// assert!(!batch.inner().images.device().is_autodiff());
/// ```
pub trait Classified {
    /// The class of each sample, `[batch]`.
    fn labels(&self) -> Tensor<1, Int>;

    /// The weight of each sample, `[batch]`: 1, or 0 for padding.
    fn weights(&self) -> Tensor<1>;

    /// The number of samples, padding not counted.
    fn count(&self) -> usize;

    /// The same batch off the autodiff tape.
    #[must_use]
    fn inner(self) -> Self;
}
