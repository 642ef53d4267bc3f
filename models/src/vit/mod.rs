//! The Vision Transformer: a transformer over the patches of an image.
//!
//! Pre-norm blocks, a class token and learned positions, as in Dosovitskiy et al., 2020,
//! <https://arxiv.org/abs/2010.11929>. Query, key and value are three layers rather than one fused
//! layer, so that every parameter has its counterpart in a Hugging Face checkpoint ([`hf_name`]).

mod block;
mod config;
mod embeddings;
mod flops;
mod hf;
mod json;
mod positions;

pub use block::Block;
pub use config::VitConfig;
pub use embeddings::Embeddings;
pub use hf::{hf_name, hf_path};
pub use positions::interpolated_positions;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_dist::nn::{LayerNorm, Linear};
use burn_dist::unit;

use crate::config::ConfigError;
use crate::init;

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
            norm: init::norm(self.width, self.norm_eps, device),
            head: init::linear(self.width, self.classes, self.init_std, device),
        })
    }
}

impl Vit {
    /// The logits of a batch; on a device with a tape, with the configured dropout and stochastic depth.
    ///
    /// `images`: `[batch, channels, image_size, image_size]`; output: `[batch, classes]`.
    ///
    /// # Panics
    ///
    /// As Burn's tensor operations, if the images have another shape than the model was configured for.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        unit(self, images, |vit: &Vit, images| {
            let mut x = vit.embeddings.forward(images);
            for block in &vit.blocks {
                x = unit(block, x, Block::forward);
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
    use burn_dist::Noise;

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
        let device = Device::flex().autodiff();
        let (vit, images) = (noisy().init(&device).unwrap(), images(&device));
        let logits = |step, rank| {
            let noise = Noise::new(5, step, rank);
            noise.layers(|| vit.forward(images.clone())).into_data()
        };
        assert_eq!(logits(0, 0), logits(0, 0));
        assert_ne!(logits(0, 0), logits(1, 0));
        assert_ne!(logits(0, 0), logits(0, 1));
    }

    #[test]
    fn evaluation_ignores_the_rates() {
        let device = Device::flex().autodiff();
        let (vit, images) = (noisy().init(&device).unwrap(), images(&device));
        let evaluated =
            |images: &Tensor<4>| vit.valid().forward(images.clone().inner()).into_data();
        assert_eq!(evaluated(&images), evaluated(&images));
        let drops = Noise::new(5, 0, 0).layers(|| vit.forward(images.clone()));
        assert_ne!(drops.into_data(), evaluated(&images));
    }
}
