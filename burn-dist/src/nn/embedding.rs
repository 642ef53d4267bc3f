//! The embedding.

use super::functional::embedding;
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor};

/// Settings of an [`Embedding`]; those of [`burn::nn::EmbeddingConfig`].
#[derive(Config, Debug)]
pub struct EmbeddingConfig {
    /// Number of vectors.
    pub n_embedding: usize,
    /// Features of a vector.
    pub d_model: usize,
    /// What the vectors are drawn from.
    #[config(default = "Initializer::Normal { mean: 0.0, std: 1.0 }")]
    pub initializer: Initializer,
}

impl EmbeddingConfig {
    /// The layer; nothing is drawn before it is used or sharded.
    pub fn init(&self, device: &Device) -> Embedding {
        let shape = [self.n_embedding, self.d_model];
        let weight = self.initializer.init(shape, device);
        Embedding { weight }
    }
}

/// A vector for each number, as [`burn::nn::Embedding`] looks them up.
///
/// The table is read where it lies; Burn's own copies it in each forward where it is a view, as all gathered
/// parameters are.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[n_embedding, d_model]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// `ids`: `[batch, tokens]`; output: `[batch, tokens, d_model]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        embedding(self.weight.val(), ids)
    }
}
