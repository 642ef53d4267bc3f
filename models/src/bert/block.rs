//! One post-norm block, the model's natural unit of sharding.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};

use super::BertConfig;
use crate::init;
use burn_dist::nn::{Dropout, DropoutConfig, FeedForward, LayerNorm, MhaInput, MultiHeadAttention};

/// A post-norm block: attention, then an MLP, each with a residual connection and a layer norm over the sum.
#[derive(Module, Debug)]
pub struct Block {
    /// Mixes tokens.
    pub attention: MultiHeadAttention,
    /// After the attention's sum.
    pub norm_attention: LayerNorm,
    /// Mixes the features of each token.
    pub mlp: FeedForward,
    /// After the MLP's sum.
    pub norm_mlp: LayerNorm,
    /// Of what attention or MLP adds.
    pub dropout: Dropout,
}

impl Block {
    pub(super) fn new(config: &BertConfig, device: &Device) -> Self {
        let (width, std) = (config.width, config.init_std);
        let sizes = (width, config.heads);
        Self {
            attention: init::attention(sizes, std, config.attention_dropout, device),
            norm_attention: init::norm(width, config.norm_eps, device),
            mlp: init::mlp(width, config.mlp_width, std, device),
            norm_mlp: init::norm(width, config.norm_eps, device),
            dropout: DropoutConfig::new(config.dropout).init(),
        }
    }

    /// `x` and output: `[batch, tokens, width]`; `padding`: `[batch, tokens]`, true at tokens that none
    /// attends to.
    pub fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        let mut attention = MhaInput::self_attn(x.clone());
        if let Some(padding) = padding {
            attention = attention.mask_pad(padding);
        }
        let attended = self.attention.forward(attention).context;
        let x = self
            .norm_attention
            .forward(x + self.dropout.forward(attended));
        let mixed = self.dropout.forward(self.mlp.forward(x.clone()));
        self.norm_mlp.forward(x + mixed)
    }
}
