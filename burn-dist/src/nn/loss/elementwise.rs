//! Losses that compare number by number.

use crate::nn::half::widened;
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{FloatDType, Tensor};

/// The squared differences, summed: PyTorch's `F.mse_loss(reduction="sum")`. A tensor of one element.
///
/// - `found` and `expected`: `[samples, ..]`
/// - `weights`: `[samples]`
///
/// Divide by samples times numbers in a sample for the mean: `backward_sum(loss, count * numbers, ..)`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::nn::loss::mse_sum;
///
/// let device = Device::flex();
/// let (found, expected) = (Tensor::<2>::ones([3, 2], &device), Tensor::zeros([3, 2], &device));
/// let weights = Tensor::from_floats([1.0, 1.0, 0.0], &device);
/// assert_eq!(mse_sum(found, expected, Some(weights)).into_scalar::<f32>(), 4.0);
/// ```
pub fn mse_sum<const D: usize>(
    found: Tensor<D>,
    expected: Tensor<D>,
    weights: Option<Tensor<1>>,
) -> Tensor<1> {
    assert_eq!(found.dims(), expected.dims(), "sizes of what is expected");
    weighted((widened(found) - widened(expected)).square(), weights)
}

/// The cross-entropy between scores and probabilities of a yes, summed: PyTorch's
/// `F.binary_cross_entropy_with_logits(reduction="sum")`. A tensor of one element.
///
/// - `logits` and `expected`, each in `[0, 1]`: `[samples, ..]`
/// - `weights`: `[samples]`
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::nn::loss::binary_cross_entropy_sum;
///
/// let device = Device::flex();
/// let logits = Tensor::<1>::from_floats([0.0, 500.0, -500.0], &device);
/// let expected = Tensor::from_floats([1.0, 1.0, 0.0], &device);
/// let sum = binary_cross_entropy_sum(logits, expected, None).into_scalar::<f32>();
/// assert!((sum - 2f32.ln()).abs() < 1e-6);
/// ```
pub fn binary_cross_entropy_sum<const D: usize>(
    logits: Tensor<D>,
    expected: Tensor<D>,
    weights: Option<Tensor<1>>,
) -> Tensor<1> {
    assert_eq!(logits.dims(), expected.dims(), "sizes of what is expected");
    let (x, y) = (widened(logits), widened(expected));
    // Exact at 0 too, where a sum of a clamp and an absolute value has no derivative, and where a head starts.
    weighted(x.clone() * (y.neg() + 1.0) - log_sigmoid(x), weights)
}

/// The sum over all elements, each sample's times its weight.
fn weighted<const D: usize>(losses: Tensor<D>, weights: Option<Tensor<1>>) -> Tensor<1> {
    let Some(weights) = weights else {
        return losses.sum();
    };
    let mut shape = [1; D];
    shape[0] = losses.dims()[0];
    assert_eq!(shape[..1], weights.dims(), "a weight for each sample");
    let dtype = FloatDType::from(losses.dtype());
    (losses * weights.cast(dtype).reshape(shape)).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    fn leaf() -> Tensor<2> {
        let device = Device::flex().autodiff();
        let numbers = [
            [0.3, -1.2, 2.0],
            [1.5, 0.1, -0.4],
            [-2.0, 0.7, 0.9],
            [0.0, 4.0, -3.0],
        ];
        Tensor::<2>::from_data(numbers, (&device, DType::F64)).require_grad()
    }

    fn number(tensor: Tensor<1>) -> f64 {
        tensor.into_data().iter::<f64>().next().unwrap_or(f64::NAN)
    }

    #[test]
    fn gradients_of_the_others_are_their_definitions() {
        let target = leaf().detach().flip([0]).clamp(0.0, 1.0);
        let weights = Tensor::<1>::from_data([1.0, 0.0, 2.0, 1.0], &target.device());
        let (x, y) = (leaf(), leaf());
        let losses = mse_sum(x.clone(), target.clone(), Some(weights.clone()))
            + binary_cross_entropy_sum(y.clone(), target.clone(), Some(weights.clone()));
        let grads = losses.backward();
        let weights = weights.inner().cast(FloatDType::F64).reshape([4, 1]);
        let target = target.inner();
        let difference = (x.clone().inner() - target.clone()) * 2.0 * weights.clone();
        let sigmoid = burn::tensor::activation::sigmoid(y.clone().inner()) - target;
        for (leaf, expected) in [(x, difference), (y, sigmoid * weights)] {
            let found = leaf.grad(&grads).unwrap();
            assert!(number((found - expected).abs().max()) < 1e-12);
        }
    }
}
