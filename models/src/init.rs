//! Lazy initialisation of parameters: a truncated normal for weights, zeros for biases.
//!
//! Burn's initialisers have no truncated normal. No parameter is allocated until its first use, so that a model
//! larger than memory can be described, sharded, and only then drawn.

use burn::module::{Initializer, Param, ParamId};
use burn::tensor::{Device, Distribution, Shape, Tensor};
use burn_dist::nn::{
    FeedForward, FeedForwardConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
    MultiHeadAttention, MultiHeadAttentionConfig,
};

/// Where the distribution is cut, in deviations.
const CUT: f64 = 2.0;

/// A weight to be drawn from the truncated normal distribution of this standard deviation.
pub(crate) fn weight<const D: usize>(
    shape: [usize; D],
    std: f64,
    device: &Device,
) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, require_grad| {
            // A persistent allocation: it outlives the step, unlike activations.
            let value =
                device.memory_persistent_allocations((), |()| truncated(shape, std, device));
            if require_grad {
                value.require_grad()
            } else {
                value
            }
        },
        device.clone(),
        true,
        Shape::from(shape),
    )
}

/// A parameter that starts at zero.
pub(crate) fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Initializer::Zeros.init(shape, device)
}

/// A linear layer with a weight of `[inputs, outputs]` and a bias.
pub(crate) fn linear(inputs: usize, outputs: usize, std: f64, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(inputs, outputs)
        .with_initializer(Initializer::Zeros)
        .init(device);
    linear.weight = weight([inputs, outputs], std, device);
    linear
}

/// Attention in `heads` heads, which drops probabilities at this rate.
pub(crate) fn attention(
    (width, heads): (usize, usize),
    std: f64,
    dropout: f64,
    device: &Device,
) -> MultiHeadAttention {
    let config = MultiHeadAttentionConfig::new(width, heads).with_dropout(dropout);
    let mut attention = config.with_initializer(Initializer::Zeros).init(device);
    for layer in [
        &mut attention.query,
        &mut attention.key,
        &mut attention.value,
        &mut attention.output,
    ] {
        layer.weight = weight([width, width], std, device);
    }
    attention
}

/// Two linear layers with a GELU between them.
pub(crate) fn mlp(width: usize, inner: usize, std: f64, device: &Device) -> FeedForward {
    let config = FeedForwardConfig::new(width, inner).with_dropout(0.0);
    let mut mlp = config.with_initializer(Initializer::Zeros).init(device);
    mlp.linear_inner.weight = weight([width, inner], std, device);
    mlp.linear_outer.weight = weight([inner, width], std, device);
    mlp
}

/// A norm that starts at the identity.
pub(crate) fn norm(width: usize, epsilon: f64, device: &Device) -> LayerNorm {
    LayerNormConfig::new(width)
        .with_epsilon(epsilon)
        .init(device)
}

/// Draws from a normal distribution, and draws the elements beyond the cut again.
///
/// 4.6 % of the draws lie there; after three rounds about four in a million do, and are clamped. A fixed
/// number of rounds keeps the values on the device and the generator's position predictable.
fn truncated<const D: usize>(shape: [usize; D], std: f64, device: &Device) -> Tensor<D> {
    let draw = || Tensor::random(shape, Distribution::Normal(0.0, std), device);
    let limit = CUT * std;
    let mut values: Tensor<D> = draw();
    for _ in 0..3 {
        let beyond = values.clone().abs().greater_scalar(limit);
        values = values.mask_where(beyond, draw());
    }
    values.clamp(-limit, limit)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_truncated_normal() {
        let values: Vec<f32> = weight([200, 500], 0.02, &Device::flex())
            .val()
            .into_data()
            .try_to_vec()
            .unwrap();
        let count = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / count;
        let largest = values.iter().fold(0f32, |max, x| max.max(x.abs()));

        assert!(mean.abs() < 3e-4, "{mean}");
        // Cutting at two deviations leaves a deviation of 0.8796 of the original.
        assert!((variance.sqrt() / 0.02 - 0.8796).abs() < 0.01);
        assert!(largest <= 0.04 && largest > 0.039, "{largest}");
        // Clamping alone would pile up 4.6 % of the values at the cut.
        let at_cut = values.iter().filter(|x| x.abs() >= 0.04).count();
        assert!(at_cut < 10, "{at_cut}");
    }

    #[test]
    fn a_weight_on_an_autodiff_device_requires_gradients() {
        let weight = weight([2, 3], 0.02, &Device::flex().autodiff());
        assert!(!weight.is_initialized());
        assert!(weight.val().is_require_grad());
    }
}
