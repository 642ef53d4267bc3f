//! What the layers of an encoder and of a decoder are made of.

use super::{
    Dropout, DropoutConfig, FeedForward, FeedForwardConfig, LayerNorm, LayerNormConfig,
    MultiHeadAttention, MultiHeadAttentionConfig,
};
use burn::module::Initializer;
use burn::nn::activation::ActivationConfig;
use burn::tensor::Device;

/// The settings that both have.
pub(super) struct TransformerConfig<'a> {
    pub(super) d_model: usize,
    pub(super) d_ff: usize,
    pub(super) n_heads: usize,
    pub(super) dropout: f64,
    pub(super) quiet_softmax: bool,
    pub(super) initializer: &'a Initializer,
    pub(super) activation: &'a ActivationConfig,
    pub(super) layer_norm_eps: f64,
}

impl TransformerConfig<'_> {
    pub(super) fn attention(&self, device: &Device) -> MultiHeadAttention {
        MultiHeadAttentionConfig::new(self.d_model, self.n_heads)
            .with_initializer(self.initializer.clone())
            .with_dropout(self.dropout)
            .with_quiet_softmax(self.quiet_softmax)
            .init(device)
    }

    pub(super) fn feed_forward(&self, device: &Device) -> FeedForward {
        FeedForwardConfig::new(self.d_model, self.d_ff)
            .with_initializer(self.initializer.clone())
            .with_dropout(self.dropout)
            .with_activation(self.activation.clone())
            .init(device)
    }

    pub(super) fn norm(&self, device: &Device) -> LayerNorm {
        LayerNormConfig::new(self.d_model)
            .with_epsilon(self.layer_norm_eps)
            .init(device)
    }

    pub(super) fn dropout(&self) -> Dropout {
        DropoutConfig::new(self.dropout).init()
    }
}
