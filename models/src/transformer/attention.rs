//! Multi-head self-attention.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Tensor};

use super::{fold, init};
use burn_dist::Noise;
use burn_dist::nn::functional;

/// Scaled dot-product attention in several heads: softmax(Q·Kᵀ / √d)·V.
///
/// Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>.
#[derive(Module, Debug)]
pub struct Attention {
    /// The query projection.
    pub query: Linear,
    /// The key projection.
    pub key: Linear,
    /// The value projection.
    pub value: Linear,
    /// The output projection over all heads.
    pub output: Linear,
    /// Number of heads; they divide the width.
    pub heads: usize,
    /// Probability of dropping an attention probability.
    pub dropout: f64,
}

impl Attention {
    pub(crate) fn new(width: usize, heads: usize, std: f64, device: &Device) -> Self {
        Self {
            query: init::linear(width, width, std, device),
            key: init::linear(width, width, std, device),
            value: init::linear(width, width, std, device),
            output: init::linear(width, width, std, device),
            heads,
            dropout: 0.0,
        }
    }

    /// The attention of all tokens to all tokens.
    ///
    /// - `x` and output: `[batch, tokens, width]`.
    /// - `padding`: `[batch, tokens]`, true at tokens that no token may attend to. The output at such a token is
    ///   meaningless, but finite, even where a whole row is padding.
    /// - `site`: the number of this attention's draw within its block.
    ///
    /// The probabilities are computed in f32 where `x` is f16 or bf16.
    pub fn forward(
        &self,
        x: Tensor<3>,
        padding: Option<Tensor<2, Bool>>,
        noise: Option<Noise>,
        site: u32,
    ) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let x = fold(x);
        let project = |by: &Linear| by.forward(x.clone()).reshape([batch, tokens, width]);
        let how = functional::Attention {
            padding,
            dropout: noise.map(|noise| noise.mask_of(self.dropout, site)),
            ..functional::Attention::new(self.heads)
        };
        let (query, key) = (project(&self.query), project(&self.key));
        let heads = functional::attention(query, key, project(&self.value), how);
        self.output
            .forward(fold(heads))
            .reshape([batch, tokens, width])
    }
}
