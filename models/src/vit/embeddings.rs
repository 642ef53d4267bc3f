//! Patch embeddings: an image becomes a sequence of tokens.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};

use super::VitConfig;
use crate::init;
use burn_dist::nn::{Dropout, DropoutConfig};

/// Projections of an image's patches to tokens, with a class token and position embeddings.
#[derive(Module, Debug)]
pub struct Embeddings {
    /// The projection of a patch: a convolution whose stride is its size.
    pub patches: Conv2d,
    /// `[1, 1, width]`: the token that stands for the whole image.
    pub class_token: Param<Tensor<3>>,
    /// `[1, 1 + patches, width]`: the position embeddings.
    pub positions: Param<Tensor<3>>,
    /// Of the output.
    pub dropout: Dropout,
}

impl Embeddings {
    pub(super) fn new(config: &VitConfig, device: &Device) -> Self {
        let VitConfig {
            channels, width, ..
        } = *config;
        let side = config.patch_size;
        let mut patches = Conv2dConfig::new([channels, width], [side, side])
            .with_stride([side, side])
            .with_initializer(burn::module::Initializer::Zeros)
            .init(device);
        patches.weight = init::weight([width, channels, side, side], config.init_std, device);

        let count = (config.image_size / side).pow(2);
        Self {
            patches,
            class_token: init::zeros([1, 1, width], device),
            positions: init::weight([1, 1 + count, width], 0.02, device),
            dropout: DropoutConfig::new(config.dropout).init(),
        }
    }

    /// `images`: `[batch, channels, image_size, image_size]`; output: `[batch, 1 + patches, width]`, the
    /// class token first.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        // [batch, width, rows, columns] -> [batch, rows * columns, width]
        let patches = self.patches.forward(images);
        let patches = patches.flatten::<3>(2, 3).swap_dims(1, 2);

        let [batch, _, width] = patches.dims();
        let class = self.class_token.val().expand([batch, 1, width]);
        let tokens = Tensor::cat(vec![class, patches], 1) + self.positions.val();
        self.dropout.forward(tokens)
    }
}
