//! Layer normalisation, in half precision too.

use super::functional::layer_norm;
use super::half::{narrowed, widened};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

/// Settings of a [`LayerNorm`]; those of [`burn::nn::LayerNormConfig`].
#[derive(Config, Debug)]
pub struct LayerNormConfig {
    /// Features of a row.
    pub d_model: usize,
    /// Added to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// Whether there is a shift.
    #[config(default = true)]
    pub bias: bool,
}

impl LayerNormConfig {
    /// The layer.
    pub fn init(&self, device: &Device) -> LayerNorm {
        let width = [self.d_model];
        LayerNorm {
            gamma: Initializer::Ones.init(width, device),
            beta: self.bias.then(|| Initializer::Zeros.init(width, device)),
            epsilon: self.epsilon,
        }
    }
}

/// Normalises each row to mean 0 and variance 1, and scales and shifts it, as [`burn::nn::LayerNorm`] does.
///
/// One pass over the row on a CPU. Ba et al., 2016, <https://arxiv.org/abs/1607.06450>.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[d_model]`: the scale.
    pub gamma: Param<Tensor<1>>,
    /// `[d_model]`: the shift.
    pub beta: Option<Param<Tensor<1>>>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl LayerNorm {
    /// `x` and output: `[.., d_model]`. Computed in f32 where `x` is f16 or bf16, and rounded once.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let gamma = widened(self.gamma.val());
        let beta = match &self.beta {
            Some(beta) => widened(beta.val()),
            None => Tensor::zeros(gamma.dims(), (&gamma.device(), gamma.dtype())),
        };
        narrowed(layer_norm(widened(x), gamma, beta, self.epsilon), dtype)
    }
}
