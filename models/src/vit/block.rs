//! One transformer block, which is a unit of sharding.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::VitConfig;
use crate::init;
use burn_dist::nn::{
    DropPath, DropPathConfig, Dropout, DropoutConfig, FeedForward, LayerNorm, MhaInput,
    MultiHeadAttention,
};

/// A pre-norm block: attention, then an MLP, each over a layer norm and with a residual connection.
#[derive(Module, Debug)]
pub struct Block {
    /// Before the attention.
    pub norm_before: LayerNorm,
    /// Mixes tokens.
    pub attention: MultiHeadAttention,
    /// After the attention, before the MLP.
    pub norm_after: LayerNorm,
    /// Mixes the features of each token.
    pub mlp: FeedForward,
    /// Of what a branch adds.
    pub dropout: Dropout,
    /// Samples skip a branch.
    pub drop_path: DropPath,
}

impl Block {
    /// The block with this number, from 0 on; the probability that it is skipped grows with the number.
    pub(super) fn new(config: &VitConfig, index: usize, device: &Device) -> Self {
        let VitConfig {
            width,
            mlp_width,
            init_std,
            ..
        } = *config;
        let sizes = (width, config.heads);
        let depth = index as f64 / (config.blocks - 1).max(1) as f64;
        Self {
            norm_before: init::norm(width, config.norm_eps, device),
            attention: init::attention(sizes, init_std, config.attention_dropout, device),
            norm_after: init::norm(width, config.norm_eps, device),
            mlp: init::mlp(width, mlp_width, init_std, device),
            dropout: DropoutConfig::new(config.dropout).init(),
            drop_path: DropPathConfig::new(config.drop_path * depth).init(),
        }
    }

    /// `x` and output: `[batch, tokens, width]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let drop = |branch| self.drop_path.forward(self.dropout.forward(branch));
        let normed = MhaInput::self_attn(self.norm_before.forward(x.clone()));
        let x = x + drop(self.attention.forward(normed).context);
        let branch = self.mlp.forward(self.norm_after.forward(x.clone()));
        x + drop(branch)
    }
}
