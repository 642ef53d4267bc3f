//! The configuration of a Vision Transformer, and presets.

use burn::config::Config;

use crate::config::{self, ConfigError};

/// The sizes and rates of a [`Vit`](super::Vit); the defaults are ViT-B/16 at 224 × 224 without dropout.
///
/// # Example
///
/// ```
/// use burn::tensor::Device;
/// use burn_dist_models::VitConfig;
///
/// let device = Device::flex();
/// assert!(VitConfig::tiny(10).with_drop_path(0.1).init(&device).is_ok());
///
/// let mistake = VitConfig::tiny(10).with_heads(5).init(&device).unwrap_err();
/// assert_eq!(
///     mistake.to_string(),
///     "a width of 64 cannot be split over 5 heads: choose a multiple"
/// );
/// ```
#[derive(Config, Debug)]
pub struct VitConfig {
    /// Number of classes.
    pub classes: usize,
    /// Height and width of an image in pixels.
    #[config(default = 224)]
    pub image_size: usize,
    /// Height and width of a patch in pixels; it divides the image.
    #[config(default = 16)]
    pub patch_size: usize,
    /// Channels of an image.
    #[config(default = 3)]
    pub channels: usize,
    /// Features of a token.
    #[config(default = 768)]
    pub width: usize,
    /// Number of blocks.
    #[config(default = 12)]
    pub blocks: usize,
    /// Attention heads of a block; they divide the width.
    #[config(default = 12)]
    pub heads: usize,
    /// Hidden features of a block's MLP.
    #[config(default = 3072)]
    pub mlp_width: usize,
    /// Dropout of the embeddings and of the output of each attention and MLP.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Dropout of the attention probabilities.
    #[config(default = 0.0)]
    pub attention_dropout: f64,
    /// Stochastic depth of the last block; it grows linearly from 0 at the first.
    #[config(default = 0.0)]
    pub drop_path: f64,
    /// What layer norms add to the variance.
    #[config(default = 1e-6)]
    pub norm_eps: f64,
    /// Standard deviation of the weights at the start. The usual 0.02 suits widths near 1000; narrower
    /// models need more, or the activations of the first block are too small to train.
    #[config(default = 0.02)]
    pub init_std: f64,
}

impl VitConfig {
    /// A model of 0.2 M parameters for 32 × 32 images: quick on a laptop.
    pub fn tiny(classes: usize) -> Self {
        Self::small_images(classes)
            .with_sizes(64, 4, 4)
            .with_init_std(0.1)
    }

    /// A model of 2.7 M parameters for CIFAR's 32 × 32 images.
    pub fn cifar(classes: usize) -> Self {
        Self::small_images(classes)
            .with_sizes(192, 6, 3)
            .with_init_std(0.06)
    }

    /// ViT-S/16 at 224 × 224: 22 M parameters. Touvron et al., 2020, <https://arxiv.org/abs/2012.12877>.
    pub fn small_16(classes: usize) -> Self {
        Self::new(classes).with_sizes(384, 12, 6)
    }

    /// ViT-B/16 at 224 × 224: 86 M parameters.
    pub fn base_16(classes: usize) -> Self {
        Self::new(classes).with_sizes(768, 12, 12)
    }

    /// ViT-L/16 at 224 × 224: 304 M parameters.
    pub fn large_16(classes: usize) -> Self {
        Self::new(classes).with_sizes(1024, 24, 16)
    }

    fn small_images(classes: usize) -> Self {
        Self::new(classes).with_image_size(32).with_patch_size(4)
    }

    /// The published models all have an MLP of four times their width.
    fn with_sizes(self, width: usize, blocks: usize, heads: usize) -> Self {
        self.with_width(width)
            .with_blocks(blocks)
            .with_heads(heads)
            .with_mlp_width(4 * width)
    }

    /// Checks that the configuration describes a model.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`] found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::sizes(&[
            ("classes", self.classes),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("channels", self.channels),
            ("width", self.width),
            ("blocks", self.blocks),
            ("heads", self.heads),
            ("mlp_width", self.mlp_width),
        ])?;
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(ConfigError::Patches {
                image_size: self.image_size,
                patch_size: self.patch_size,
            });
        }
        config::heads(self.width, self.heads)?;
        config::rates(&[
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("drop_path", self.drop_path),
        ])?;
        config::scales(self.norm_eps, self.init_std)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parameter_count::ParameterCount;
    use burn::tensor::Device;

    #[test]
    fn presets_have_their_published_sizes_and_allocate_nothing() {
        let presets = [
            (VitConfig::tiny(10), 208_074),
            (VitConfig::cifar(10), 2_693_578),
            (VitConfig::small_16(1000), 22_050_664),
            (VitConfig::base_16(1000), 86_567_656),
            (VitConfig::large_16(1000), 304_326_632),
        ];
        for (config, elements) in presets {
            let count = ParameterCount::of(&config.init(&Device::flex()).unwrap());
            assert_eq!(count.elements, elements, "{config:?}");
            assert_eq!(count.initialized, 0, "{config:?}");
        }
    }

    #[test]
    fn each_invalid_field_is_an_error_that_names_it() {
        let tiny = || VitConfig::tiny(10);
        let mistakes = [
            (
                tiny().with_blocks(0),
                "`blocks` is 0: it must be at least 1",
            ),
            (
                tiny().with_blocks(1_000_000_000),
                "`blocks` is 1000000000: it must be at most 4096",
            ),
            (
                tiny().with_width(1 << 40),
                "`width` is 1099511627776: it must be at most 16777216",
            ),
            (
                tiny().with_patch_size(5),
                "an image of 32 pixels cannot be cut into patches of 5: choose a divisor",
            ),
            (
                tiny().with_heads(7),
                "a width of 64 cannot be split over 7 heads: choose a multiple",
            ),
            (
                tiny().with_drop_path(1.0),
                "`drop_path` is 1: a rate lies in [0, 1)",
            ),
            (
                tiny().with_dropout(f64::NAN),
                "`dropout` is NaN: a rate lies in [0, 1)",
            ),
            (
                tiny().with_init_std(f64::NAN),
                "`init_std` is NaN: it must be positive and finite",
            ),
            (
                tiny().with_norm_eps(0.0),
                "`norm_eps` is 0: it must be positive and finite",
            ),
        ];
        for (config, message) in mistakes {
            assert_eq!(
                config.init(&Device::flex()).unwrap_err().to_string(),
                message
            );
        }
    }

    #[test]
    fn stochastic_depth_grows_linearly() {
        let config = VitConfig::tiny(10).with_drop_path(0.3);
        let vit = config.init(&Device::flex()).unwrap();
        let rates: Vec<f64> = vit
            .blocks
            .iter()
            .map(|block| block.drop_path.prob)
            .collect();
        for (rate, expected) in rates.into_iter().zip([0.0, 0.1, 0.2, 0.3]) {
            assert!((rate - expected).abs() < 1e-12);
        }
    }
}
