//! Layer norms that are computed in f32 for half precision.

use burn::module::Param;
use burn::nn::LayerNorm;
use burn::tensor::Tensor;

use crate::widen::{narrowed, widened};

/// The output of `layer` for `x`, computed in f32 where `x` is f16 or bf16.
///
/// Burn's layer widens f16, whose squares overflow. bf16 it leaves alone: mean, difference, variance and
/// quotient are each rounded to eight bits, where PyTorch rounds once.
pub(crate) fn norm<const D: usize>(layer: &LayerNorm, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    let x = widened(x);
    if x.dtype() == dtype {
        return layer.forward(x);
    }
    // No parameters: values on the tape, from which gradients go on to the layer's own.
    let wide = |param: &Param<Tensor<1>>| Param::initialized(param.id, widened(param.val()));
    let mut layer = layer.clone();
    layer.gamma = wide(&layer.gamma);
    layer.beta = layer.beta.as_ref().map(wide);
    narrowed(layer.forward(x), dtype)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::nn::LayerNormConfig;
    use burn::tensor::{Device, Distribution, FloatDType};

    fn layer(device: &Device) -> LayerNorm {
        let mut layer = LayerNormConfig::new(64).with_epsilon(1e-12).init(device);
        let random = || Tensor::random([64], Distribution::Normal(1.0, 0.3), device);
        layer.gamma = Param::from_tensor(random());
        layer.beta = Some(Param::from_tensor(random()));
        layer
    }

    fn leaf(value: Tensor<1>) -> Param<Tensor<1>> {
        Param::from_tensor(Tensor::from_inner(value.inner()))
    }

    #[test]
    fn in_f32_the_norm_equals_burns() {
        let device = Device::flex();
        let (layer, x) = (layer(&device), Tensor::<2>::ones([3, 64], &device));
        let x = x.random_like(Distribution::Normal(2.0, 3.0));
        let ours = norm(&layer, x.clone()).into_data();
        ours.assert_eq(&layer.forward(x).into_data(), true);
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
            for param in [Some(&mut half.gamma), half.beta.as_mut()] {
                let param = param.unwrap();
                *param = leaf(param.val().cast(dtype).cast(FloatDType::F32));
            }
            let exact: Vec<f32> = norm(&half, x.clone()).into_data().try_to_vec().unwrap();
            for param in [Some(&mut half.gamma), half.beta.as_mut()] {
                let param = param.unwrap();
                *param = leaf(param.val().cast(dtype));
            }
            let out = norm(&half, x.cast(dtype));
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
