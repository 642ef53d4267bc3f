//! Multi-head self-attention.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, activation::softmax};

use super::init;
use crate::Noise;

/// Each token asks all tokens, in several heads at once: softmax(Q·Kᵀ / √d)·V.
///
/// Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>.
#[derive(Module, Debug)]
pub struct Attention {
    /// What a token asks for.
    pub query: Linear,
    /// What a token is found by.
    pub key: Linear,
    /// What a token answers.
    pub value: Linear,
    /// Mixes the heads.
    pub output: Linear,
    /// Number of heads; they divide the width.
    pub heads: usize,
    /// Probability of dropping an attention probability.
    pub dropout: f64,
}

impl Attention {
    pub(super) fn new(width: usize, heads: usize, std: f64, device: &Device) -> Self {
        Self {
            query: init::linear(width, width, std, device),
            key: init::linear(width, width, std, device),
            value: init::linear(width, width, std, device),
            output: init::linear(width, width, std, device),
            heads,
            dropout: 0.0,
        }
    }

    /// `x` and output: `[batch, tokens, width]`. `site` is this attention's draw within its block.
    pub fn forward(&self, x: Tensor<3>, noise: Option<Noise>, site: u32) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let features = width / self.heads;
        let split = |x: Tensor<2>| x.reshape([batch, tokens, self.heads, features]);
        let x = fold(x);

        // The scale goes on the queries: they are fewer than the scores as soon as there are more tokens
        // than features in a head.
        let query = self.query.forward(x.clone()) * (features as f64).powf(-0.5);
        let query = split(query).swap_dims(1, 2);
        let key = split(self.key.forward(x.clone())).permute([0, 2, 3, 1]);
        let value = split(self.value.forward(x)).swap_dims(1, 2);

        let mut probabilities = softmax(query.matmul(key), 3);
        if let Some(noise) = noise {
            probabilities = noise.dropout(probabilities, self.dropout, site);
        }
        let heads = probabilities.matmul(value).swap_dims(1, 2);
        let heads = heads.reshape([batch * tokens, width]);
        self.output.forward(heads).reshape([batch, tokens, width])
    }
}

/// `[batch, tokens, width]` as `[batch * tokens, width]`.
///
/// On three dimensions Burn's linear layer may reshape its *weight* instead, and that reshaped weight
/// stays on the autodiff tape until backward: exactly what a sharded model must not hold.
pub(super) fn fold(x: Tensor<3>) -> Tensor<2> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch * tokens, width])
}
