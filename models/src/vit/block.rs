//! One transformer block, which is a unit of sharding.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::VitConfig;
use crate::transformer::{Attention, LayerNorm, Mlp};
use burn_dist::Noise;

/// Numbers of a block's random draws.
mod site {
    pub(super) const PROBABILITIES: u32 = 0;
    pub(super) const ATTENTION: u32 = 1;
    pub(super) const ATTENTION_PATH: u32 = 2;
    pub(super) const MLP: u32 = 3;
    pub(super) const MLP_PATH: u32 = 4;
}

/// A pre-norm block: attention, then an MLP, each over a layer norm and with a residual connection.
#[derive(Module, Debug)]
pub struct Block {
    /// Before the attention.
    pub norm_before: LayerNorm,
    /// Mixes tokens.
    pub attention: Attention,
    /// After the attention, before the MLP.
    pub norm_after: LayerNorm,
    /// Mixes the features of each token.
    pub mlp: Mlp,
    /// Probability of dropping an element of what a branch adds.
    pub dropout: f64,
    /// Probability that a sample skips a branch.
    pub drop_path: f64,
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
        let norm = || LayerNorm::new(width, config.norm_eps, device);
        let mut attention = Attention::new(width, config.heads, init_std, device);
        attention.dropout = config.attention_dropout;
        let depth = index as f64 / (config.blocks - 1).max(1) as f64;
        Self {
            norm_before: norm(),
            attention,
            norm_after: norm(),
            mlp: Mlp::new(width, mlp_width, init_std, device),
            dropout: config.dropout,
            drop_path: config.drop_path * depth,
        }
    }

    /// `x` and output: `[batch, tokens, width]`. Without `noise` nothing is dropped.
    pub fn forward(&self, x: Tensor<3>, noise: Option<Noise>) -> Tensor<3> {
        let branch = self.norm_before.forward(x.clone());
        let branch = self
            .attention
            .forward(branch, None, noise, site::PROBABILITIES);
        let x = x + self.drop(branch, noise, site::ATTENTION, site::ATTENTION_PATH);

        let branch = self.mlp.forward(self.norm_after.forward(x.clone()));
        x + self.drop(branch, noise, site::MLP, site::MLP_PATH)
    }

    fn drop(&self, branch: Tensor<3>, noise: Option<Noise>, element: u32, path: u32) -> Tensor<3> {
        match noise {
            Some(noise) => {
                let branch = noise.dropout(branch, self.dropout, element);
                noise.drop_path(branch, self.drop_path, path)
            }
            None => branch,
        }
    }
}
