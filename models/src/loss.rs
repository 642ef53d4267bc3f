//! The classification loss, as a *sum* over samples and as a mean.
//!
//! The mean over ranks of each rank's mean is the mean over samples only if all batches have equal length. With
//! uneven batches or padding the sum of the losses is divided by the number of samples of all ranks.

use burn::tensor::{FloatDType, Int, Tensor};
use burn_dist::nn::functional;

use crate::widen::widened;

/// The cross-entropy of each sample against its label, summed: a tensor of one element.
///
/// - `logits`: `[batch, classes]`, any float type. The sum is taken in f32, or in f64 if they are f64.
/// - `labels`: `[batch]`, the index of each sample's class.
/// - `weights`: `[batch]`, the weight of each sample, 0 for padding. Without them each weighs 1.
///
/// The gradient of a sample's logits is its weight times (softmax − one-hot).
///
/// # Panics
///
/// If a label is not a class.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_models::loss::cross_entropy_sum;
///
/// let device = Device::flex();
/// let logits = Tensor::<2>::zeros([3, 10], &device);
/// let labels = Tensor::<1, Int>::from_data([4, 9, 0], &device);
/// // The last sample is padding.
/// let weights = Tensor::<1>::from_data([1.0, 1.0, 0.0], &device);
///
/// let loss: f32 = cross_entropy_sum(logits, labels, Some(weights)).into_scalar();
/// assert!((loss - 2.0 * 10f32.ln()).abs() < 1e-5);
/// ```
pub fn cross_entropy_sum(
    logits: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Option<Tensor<1>>,
) -> Tensor<1> {
    functional::cross_entropy_sum(widened(logits), labels, weights, None)
}

/// The label of a row that has none, such as a word that was not masked. PyTorch's `ignore_index`.
pub const IGNORED: i64 = -100;

/// The cross-entropy of each row that has a label, summed, and how many rows have one: two tensors of one
/// element.
///
/// - `logits`: `[rows, classes]`, as for [`cross_entropy_sum`]; a masked language model's are flattened to
///   `[batch * tokens, vocab]`.
/// - `labels`: `[rows]`, a class or [`IGNORED`].
///
/// Both stay on the device, so that ranks can add theirs before anyone reads them; ranks have different
/// counts, and the mean is the sum over all ranks divided by the count of all ranks.
///
/// # Panics
///
/// If a label is neither a class nor [`IGNORED`].
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_models::loss::{IGNORED, cross_entropy_masked_sum};
///
/// let device = Device::flex();
/// let labels = Tensor::<1, Int>::from_data([4, IGNORED, 0], &device);
/// let (sum, count) = cross_entropy_masked_sum(Tensor::zeros([3, 10], &device), labels);
/// assert!((sum.into_scalar::<f32>() - 2.0 * 10f32.ln()).abs() < 1e-5);
/// assert_eq!(count.into_scalar::<i64>(), 2);
/// ```
pub fn cross_entropy_masked_sum(
    logits: Tensor<2>,
    labels: Tensor<1, Int>,
) -> (Tensor<1>, Tensor<1, Int>) {
    let count = labels.clone().not_equal_elem(IGNORED).int().sum();
    let sum = functional::cross_entropy_sum(widened(logits), labels, None, Some(IGNORED));
    (sum, count)
}

/// The mean of [`cross_entropy_sum`] over the batch: a tensor of one element.
///
/// The mean of an empty batch is not a number; a rank that may have no samples needs the sum.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_models::loss::cross_entropy;
///
/// let device = Device::flex();
/// let labels = Tensor::<1, Int>::from_data([4, 9, 0], &device);
/// let loss: f32 = cross_entropy(Tensor::zeros([3, 10], &device), labels).into_scalar();
/// assert!((loss - 10f32.ln()).abs() < 1e-5);
/// ```
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let [batch, _] = logits.dims();
    // Burn computes the gradient of a division by a number through f32, in every type; that of a
    // multiplication in the type of the tensor.
    cross_entropy_sum(logits, labels, None).mul_scalar(1.0 / batch as f64)
}

/// How many samples have their label as the largest logit: an f32 tensor of one element.
///
/// Shapes and `weights` are those of [`cross_entropy_sum`]. The count stays on the device, so that ranks
/// can sum theirs before anyone reads it; nothing of it is on the autodiff tape. f32 counts exactly up to
/// 2²⁴ samples.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_models::loss::correct;
///
/// let device = Device::flex();
/// let logits = Tensor::<2>::from_data([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]], &device);
/// let labels = Tensor::<1, Int>::from_data([0, 1, 1], &device);
/// assert_eq!(correct(logits, labels, None).into_scalar::<f32>(), 2.0);
/// ```
pub fn correct(logits: Tensor<2>, labels: Tensor<1, Int>, weights: Option<Tensor<1>>) -> Tensor<1> {
    let hits = logits
        .argmax(1)
        .squeeze_dim::<1>(1)
        .equal(labels)
        .cast(FloatDType::F32);
    match weights {
        Some(weights) => hits * weights.cast(FloatDType::F32),
        None => hits,
    }
    .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn logits(device: &Device) -> Tensor<2> {
        Tensor::from_data([[1.0, 2.0, 3.0], [400.0, -400.0, 0.0]], device)
    }

    #[test]
    fn gradients_in_f64_are_as_exact_as_f64() {
        let device = Device::flex().autodiff();
        let zeros = TensorData::zeros::<f64, _>([3, 7]);
        let logits = Tensor::<2>::from_data(zeros, (&device, DType::F64)).require_grad();
        let labels = Tensor::<1, Int>::from_data([4, 0, 6], &device);
        let gradients = cross_entropy(logits.clone(), labels).backward();
        let gradient = logits.grad(&gradients).unwrap().into_data();
        let wanted = (1.0 / 7.0 - 1.0) / 3.0;
        let found = gradient.iter::<f64>().nth(4).unwrap();
        // A third in f32 is off by 1e-8.
        assert!((found - wanted).abs() < 1e-15, "{found} for {wanted}");
    }

    #[test]
    fn the_sum_equals_the_formula_for_large_logits() {
        let device = Device::flex();
        let labels = Tensor::from_data([0, 2], &device);
        let loss: f32 = cross_entropy_sum(logits(&device), labels, None).into_scalar();
        let expected = (1f32.exp() + 2f32.exp() + 3f32.exp()).ln() - 1.0 + 400.0;
        assert!((loss - expected).abs() < 1e-4, "{loss} against {expected}");
    }

    #[test]
    fn a_sample_of_weight_zero_has_neither_loss_nor_gradient() {
        let device = Device::flex().autodiff();
        let logits = logits(&device).require_grad();
        let labels = Tensor::from_data([0, 2], &device);
        let weights = Tensor::from_data([0.0, 1.0], &device);
        let loss = cross_entropy_sum(logits.clone(), labels, Some(weights));
        assert_eq!(loss.clone().into_scalar::<f32>(), 400.0);

        let grads = loss.backward();
        let grad: Vec<f32> = logits
            .grad(&grads)
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        assert_eq!(grad, [0.0, 0.0, 0.0, 1.0, 0.0, -1.0]);
    }

    #[test]
    fn a_row_without_a_label_has_neither_loss_nor_gradient_nor_count() {
        let device = Device::flex().autodiff();
        let logits = logits(&device).require_grad();
        let labels = Tensor::from_data([IGNORED, 2], &device);
        let (sum, count) = cross_entropy_masked_sum(logits.clone(), labels);
        assert_eq!(sum.clone().into_scalar::<f32>(), 400.0);
        assert_eq!(count.into_scalar::<i64>(), 1);

        let grads = sum.backward();
        let grad = logits.grad(&grads).unwrap().into_data();
        let grad: Vec<f32> = grad.try_to_vec().unwrap();
        assert_eq!(grad, [0.0, 0.0, 0.0, 1.0, 0.0, -1.0]);
    }

    #[test]
    fn half_precision_is_summed_in_f32_and_double_stays_double() {
        let device = Device::flex();
        let loss = |dtype: FloatDType| {
            let labels = Tensor::from_data([0, 2], &device);
            cross_entropy_sum(logits(&device).cast(dtype), labels, None)
        };
        assert_eq!(loss(FloatDType::F16).dtype(), DType::F32);
        assert_eq!(loss(FloatDType::F64).dtype(), DType::F64);
    }

    #[test]
    fn padding_is_never_correct() {
        let device = Device::flex();
        let labels = || Tensor::from_data([2, 0], &device);
        let weights = Tensor::from_data([1.0, 0.0], &device);
        let all: f32 = correct(logits(&device), labels(), None).into_scalar();
        let some: f32 = correct(logits(&device), labels(), Some(weights)).into_scalar();
        assert_eq!((all, some), (2.0, 1.0));
    }
}
