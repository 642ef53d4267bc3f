//! Layer normalisation, in half precision too.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use burn_dist::nn::functional::layer_norm;

use crate::widen::{narrowed, widened};

/// Normalises each token's features to mean 0 and variance 1, and scales and shifts them.
///
/// Its parameters have the names of [`burn::nn::LayerNorm`]'s. Ba et al., 2016,
/// <https://arxiv.org/abs/1607.06450>.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`: the scale.
    pub gamma: Param<Tensor<1>>,
    /// `[width]`: the shift.
    pub beta: Param<Tensor<1>>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            gamma: Initializer::Ones.init([width], device),
            beta: Initializer::Zeros.init([width], device),
            epsilon,
        }
    }

    /// `x` and output: `[.., width]`. Computed in f32 where `x` is f16 or bf16, and rounded once.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let (gamma, beta) = (widened(self.gamma.val()), widened(self.beta.val()));
        narrowed(layer_norm(widened(x), gamma, beta, self.epsilon), dtype)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, FloatDType, Tolerance};

    fn layer(device: &Device) -> LayerNorm {
        let mut layer = LayerNorm::new(64, 1e-12, device);
        let random = || Tensor::random([64], Distribution::Normal(1.0, 0.3), device);
        layer.gamma = Param::from_tensor(random());
        layer.beta = Param::from_tensor(random());
        layer
    }

    fn leaf(value: Tensor<1>) -> Param<Tensor<1>> {
        Param::from_tensor(Tensor::from_inner(value.inner()))
    }

    #[test]
    fn it_computes_what_burns_layer_does() {
        let device = Device::flex();
        let (layer, x) = (layer(&device), Tensor::<2>::ones([3, 64], &device));
        let x = x.random_like(Distribution::Normal(2.0, 3.0));
        let mut burns = burn::nn::LayerNormConfig::new(64)
            .with_epsilon(1e-12)
            .init(&device);
        (burns.gamma, burns.beta) = (layer.gamma.clone(), Some(layer.beta.clone()));
        let bound = Tolerance::absolute(1e-5);
        let wanted = burns.forward(x.clone()).into_data();
        layer
            .forward(x)
            .into_data()
            .assert_approx_eq::<f32>(&wanted, bound);
    }

    /// One rounding of the result is all that half precision may add, also on the tape, where Burn takes
    /// the operation apart.
    #[test]
    fn half_precision_rounds_once() {
        let device = Device::flex().autodiff();
        for (dtype, bits) in [(FloatDType::BF16, 8), (FloatDType::F16, 11)] {
            let x = Tensor::<2>::random([16, 64], Distribution::Normal(5.0, 2.0), &device);
            let x = x.cast(dtype).cast(FloatDType::F32);
            let mut half = layer(&device);
            for param in [&mut half.gamma, &mut half.beta] {
                *param = leaf(param.val().cast(dtype).cast(FloatDType::F32));
            }
            let exact: Vec<f32> = half.forward(x.clone()).into_data().try_to_vec().unwrap();
            for param in [&mut half.gamma, &mut half.beta] {
                *param = leaf(param.val().cast(dtype));
            }
            let out = half.forward(x.cast(dtype));
            assert_eq!(FloatDType::from(out.dtype()), dtype);
            let grads = out.clone().sum().backward();
            assert!(half.gamma.val().grad(&grads).is_some());
            let out = out.cast(FloatDType::F32).into_data();
            for (out, exact) in out.iter::<f32>().zip(exact) {
                let bound = exact.abs() * 2f32.powi(-bits) + 1e-6;
                assert!((out - exact).abs() <= bound, "{out} for {exact}");
            }
        }
    }
}
