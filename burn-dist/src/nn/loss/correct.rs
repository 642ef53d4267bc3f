//! How many rows are right.

use burn::tensor::{FloatDType, Int, Tensor};

/// How many samples have their label as the largest logit: an f32 tensor of one element.
///
/// Shapes and `weights` are those of [`cross_entropy_sum`](super::cross_entropy_sum). The count stays on the device, so that ranks
/// can sum theirs before anyone reads it; nothing of it is on the autodiff tape. f32 counts exactly up to
/// 2²⁴ samples.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist::nn::loss::correct;
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
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn logits(device: &Device) -> Tensor<2> {
        Tensor::from_data([[1.0, 2.0, 3.0], [400.0, -400.0, 0.0]], device)
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
