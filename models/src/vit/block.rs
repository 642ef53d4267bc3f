//! One transformer block, the model's natural unit of sharding.

use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Tensor};

use crate::transformer::{Attention, Mlp, norm};
use burn_dist::Noise;

/// The draws of a block, told apart.
mod site {
    pub(super) const PROBABILITIES: u32 = 0;
    pub(super) const ATTENTION: u32 = 1;
    pub(super) const ATTENTION_PATH: u32 = 2;
    pub(super) const MLP: u32 = 3;
    pub(super) const MLP_PATH: u32 = 4;
}

/// Adds to the stream what attention, and then the MLP, make of its normalised tokens.
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

/// What all blocks of a model share.
pub(super) struct BlockSizes {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) mlp_width: usize,
    pub(super) norm_eps: f64,
    pub(super) init_std: f64,
}

impl Block {
    pub(super) fn new(sizes: &BlockSizes, device: &Device) -> Self {
        let BlockSizes {
            width, mlp_width, ..
        } = *sizes;
        let norm = LayerNormConfig::new(width).with_epsilon(sizes.norm_eps);
        Self {
            norm_before: norm.init(device),
            attention: Attention::new(width, sizes.heads, sizes.init_std, device),
            norm_after: norm.init(device),
            mlp: Mlp::new(width, mlp_width, sizes.init_std, device),
            dropout: 0.0,
            drop_path: 0.0,
        }
    }

    pub(super) fn with_rates(mut self, dropout: f64, attention: f64, drop_path: f64) -> Self {
        self.dropout = dropout;
        self.attention.dropout = attention;
        self.drop_path = drop_path;
        self
    }

    /// `x` and output: `[batch, tokens, width]`. Without `noise` nothing is dropped.
    pub fn forward(&self, x: Tensor<3>, noise: Option<Noise>) -> Tensor<3> {
        let branch = norm(&self.norm_before, x.clone());
        let branch = self
            .attention
            .forward(branch, None, noise, site::PROBABILITIES);
        let x = x + self.drop(branch, noise, site::ATTENTION, site::ATTENTION_PATH);

        let branch = self.mlp.forward(norm(&self.norm_after, x.clone()));
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
