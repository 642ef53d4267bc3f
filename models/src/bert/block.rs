//! One post-norm block, the model's natural unit of sharding.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};

use super::BertConfig;
use crate::transformer::{Attention, LayerNorm, Mlp};
use burn_dist::Noise;

/// Numbers of a block's random draws.
mod site {
    pub(super) const PROBABILITIES: u32 = 0;
    pub(super) const ATTENTION: u32 = 1;
    pub(super) const MLP: u32 = 2;
}

/// A post-norm block: attention, then an MLP, each with a residual connection and a layer norm over the sum.
#[derive(Module, Debug)]
pub struct Block {
    /// Mixes tokens.
    pub attention: Attention,
    /// After the attention's sum.
    pub norm_attention: LayerNorm,
    /// Mixes the features of each token.
    pub mlp: Mlp,
    /// After the MLP's sum.
    pub norm_mlp: LayerNorm,
    /// Probability of dropping an element of what attention or MLP adds.
    pub dropout: f64,
}

impl Block {
    pub(super) fn new(config: &BertConfig, device: &Device) -> Self {
        let (width, std) = (config.width, config.init_std);
        let norm = || LayerNorm::new(width, config.norm_eps, device);
        let mut attention = Attention::new(width, config.heads, std, device);
        attention.dropout = config.attention_dropout;
        Self {
            attention,
            norm_attention: norm(),
            mlp: Mlp::new(width, config.mlp_width, std, device),
            norm_mlp: norm(),
            dropout: config.dropout,
        }
    }

    /// `x` and output: `[batch, tokens, width]`; `padding`: `[batch, tokens]`, true at tokens that none
    /// attends to. Without `noise` nothing is dropped.
    pub fn forward(
        &self,
        x: Tensor<3>,
        padding: Option<Tensor<2, Bool>>,
        noise: Option<Noise>,
    ) -> Tensor<3> {
        let attended = self
            .attention
            .forward(x.clone(), padding, noise, site::PROBABILITIES);
        let attended = self.drop(attended, noise, site::ATTENTION);
        let x = self.norm_attention.forward(x + attended);

        let mixed = self.drop(self.mlp.forward(x.clone()), noise, site::MLP);
        self.norm_mlp.forward(x + mixed)
    }

    fn drop(&self, x: Tensor<3>, noise: Option<Noise>, site: u32) -> Tensor<3> {
        match noise {
            Some(noise) => noise.dropout(x, self.dropout, site),
            None => x,
        }
    }
}
