//! Normalisation by the root mean square.

use super::half::{narrowed, widened};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

/// Settings of an [`RmsNorm`](super::RmsNorm); those of [`burn::nn::RmsNormConfig`].
#[derive(Config, Debug)]
pub struct RmsNormConfig {
    /// Features of a row.
    pub d_model: usize,
    /// Added to the mean square.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

impl RmsNormConfig {
    /// The layer.
    ///
    /// # Panics
    /// If epsilon is not positive.
    pub fn init(&self, device: &Device) -> ShardedRmsNorm {
        assert!(self.epsilon > 0.0, "epsilon must be positive");
        ShardedRmsNorm {
            gamma: Initializer::Ones.init([self.d_model], device),
            epsilon: self.epsilon,
        }
    }
}

/// `x / sqrt(mean(x²) + epsilon) * gamma` for each row, as [`burn::nn::RmsNorm`] computes it.
///
/// Burn's own reads the shape of what is stored, so that every rank must store all of it; this one is sharded. A
/// module shows a visitor the name of its struct alone, so it cannot be Burn's: it is exported as `RmsNorm`.
/// Zhang and Sennrich, 2019, <https://arxiv.org/abs/1910.07467>.
#[derive(Module, Debug)]
pub struct ShardedRmsNorm {
    /// `[d_model]`: the scale.
    pub gamma: Param<Tensor<1>>,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl ShardedRmsNorm {
    /// `x` and output: `[.., d_model]`. The mean is computed in f32 where `x` is f16 or bf16.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mean = widened(x.clone()).square().mean_dim(D - 1);
        let rms = narrowed((mean + self.epsilon).sqrt(), x.dtype());
        x / rms * self.gamma.val().unsqueeze()
    }
}
