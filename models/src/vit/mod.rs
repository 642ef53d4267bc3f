//! The Vision Transformer: a transformer over the patches of an image.
//!
//! Pre-norm blocks, a class token and learned positions, as in Dosovitskiy et al., 2020,
//! <https://arxiv.org/abs/2010.11929>. Query, key and value are three layers rather than one fused
//! layer, so that every parameter has its counterpart in a Hugging Face checkpoint ([`hf_name`]).

mod block;
mod config;
mod embeddings;
mod hf;
mod json;

pub use block::Block;
pub use config::VitConfig;
pub use embeddings::Embeddings;
pub use hf::hf_name;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use burn_dist::{Noise, unit};

use crate::config::ConfigError;
use crate::transformer::{LayerNorm, init};

/// A Vision Transformer that classifies images; made by [`VitConfig::init`].
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_models::VitConfig;
///
/// # fn main() -> Result<(), burn_dist_models::ConfigError> {
/// let device = Device::flex();
/// let vit = VitConfig::tiny(10).init(&device)?;
/// let logits = vit.forward(Tensor::zeros([2, 3, 32, 32], &device));
/// assert_eq!(logits.dims(), [2, 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Vit {
    /// From image to tokens.
    pub embeddings: Embeddings,
    /// The transformer blocks, in order.
    pub blocks: Vec<Block>,
    /// The last layer norm.
    pub norm: LayerNorm,
    /// The classifier, which reads the class token.
    pub head: Linear,
}

impl VitConfig {
    /// The model, with parameters that are drawn when they are first used: nothing is allocated yet.
    ///
    /// Weights follow a normal distribution of deviation `init_std` and positions one of 0.02, cut at two
    /// deviations; biases and the class token start at 0, norms at the identity.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Vit, ConfigError> {
        self.validate()?;
        Ok(Vit {
            embeddings: Embeddings::new(self, device),
            blocks: (0..self.blocks)
                .map(|index| Block::new(self, index, device))
                .collect(),
            norm: LayerNorm::new(self.width, self.norm_eps, device),
            head: init::linear(self.width, self.classes, self.init_std, device),
        })
    }
}

impl Vit {
    /// The logits of a batch, without dropout: for evaluation, and for training without noise.
    ///
    /// `images`: `[batch, channels, image_size, image_size]`; output: `[batch, classes]`.
    ///
    /// # Panics
    ///
    /// As Burn's tensor operations, if the images have another shape than the model was configured for.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.logits(images, None)
    }

    /// The logits of a batch with the configured dropout and stochastic depth, drawn from `noise`.
    ///
    /// Shapes and panics are those of [`forward`](Self::forward), which it equals when all rates are 0.
    pub fn forward_train(&self, images: Tensor<4>, noise: Noise) -> Tensor<2> {
        self.logits(images, Some(noise))
    }

    fn logits(&self, images: Tensor<4>, noise: Option<Noise>) -> Tensor<2> {
        unit(self, images, move |vit: &Vit, images| {
            let mut x = vit.embeddings.forward(images, noise);
            // The embeddings draw as unit 0, the blocks from 1 on.
            for (block, number) in vit.blocks.iter().zip(1..) {
                let noise = noise.map(|noise| noise.unit(number));
                x = unit(block, x, move |block: &Block, x| block.forward(x, noise));
            }
            // A norm works on each token alone, and the classifier reads only the first.
            let class = x.narrow(1, 0, 1).squeeze_dim::<2>(1);
            vit.head.forward(vit.norm.forward(class))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    fn noisy() -> VitConfig {
        VitConfig::tiny(10)
            .with_dropout(0.1)
            .with_attention_dropout(0.1)
            .with_drop_path(0.2)
    }

    fn images(device: &Device) -> Tensor<4> {
        Tensor::random([4, 3, 32, 32], Distribution::Default, device)
    }

    #[test]
    fn noise_replays_and_differs_between_ranks_and_steps() {
        let device = Device::flex();
        let (vit, images) = (noisy().init(&device).unwrap(), images(&device));
        let logits = |step, rank| {
            vit.forward_train(images.clone(), Noise::new(5, step, rank))
                .into_data()
        };
        assert_eq!(logits(0, 0), logits(0, 0));
        assert_ne!(logits(0, 0), logits(1, 0));
        assert_ne!(logits(0, 0), logits(0, 1));
    }

    #[test]
    fn with_all_rates_0_training_and_evaluation_agree() {
        let device = Device::flex();
        let vit = VitConfig::tiny(10).init(&device).unwrap();
        let images = images(&device);
        let train = vit.forward_train(images.clone(), Noise::new(5, 0, 0));
        assert_eq!(train.into_data(), vit.forward(images).into_data());
    }

    #[test]
    fn evaluation_ignores_the_rates() {
        let device = Device::flex();
        let (vit, images) = (noisy().init(&device).unwrap(), images(&device));
        assert_eq!(
            vit.forward(images.clone()).into_data(),
            vit.forward(images).into_data()
        );
    }
}
