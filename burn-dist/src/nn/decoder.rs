//! The decoder of a transformer, each of whose layers is a unit.

use super::attention::Masks;
use super::transformer::TransformerConfig;
use super::{Dropout, FeedForward, LayerNorm, MhaInput, MultiHeadAttention};
use crate::{Activations, MapActivations, unit};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::activation::ActivationConfig;
use burn::tensor::{Bool, Device, Tensor};

/// Settings of a [`TransformerDecoder`]; those of Burn's `TransformerDecoderConfig`.
#[derive(Config, Debug)]
pub struct TransformerDecoderConfig {
    /// Features of a token.
    pub d_model: usize,
    /// Features between the two feed-forward layers.
    pub d_ff: usize,
    /// Number of heads; they divide the features.
    pub n_heads: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// The probability of dropping an element, after attention, activation and each branch.
    #[config(default = 0.1)]
    pub dropout: f64,
    /// Whether a branch is normalised before it, not after the sum.
    #[config(default = false)]
    pub norm_first: bool,
    /// Whether a head may attend to nothing.
    #[config(default = false)]
    pub quiet_softmax: bool,
    /// What the parameters are drawn from.
    #[config(default = "super::kaiming()")]
    pub initializer: Initializer,
    /// The function between the two feed-forward layers.
    #[config(default = "ActivationConfig::Gelu")]
    pub activation: ActivationConfig,
    /// Added to the variance of a row.
    #[config(default = 1e-5)]
    pub layer_norm_eps: f64,
}

impl TransformerDecoderConfig {
    /// The decoder; nothing is drawn before it is used or sharded.
    pub fn init(&self, device: &Device) -> TransformerDecoder {
        let layer = |_| TransformerDecoderLayer::new(self, device);
        TransformerDecoder {
            layers: (0..self.n_layers).map(layer).collect(),
        }
    }

    fn parts(&self) -> TransformerConfig<'_> {
        TransformerConfig {
            d_model: self.d_model,
            d_ff: self.d_ff,
            n_heads: self.n_heads,
            dropout: self.dropout,
            quiet_softmax: self.quiet_softmax,
            initializer: &self.initializer,
            activation: &self.activation,
            layer_norm_eps: self.layer_norm_eps,
        }
    }
}

/// What a [`TransformerDecoder`] reads.
#[derive(Debug, Clone)]
pub struct TransformerDecoderInput {
    target: Tensor<3>,
    target_masks: Masks,
    memory: Tensor<3>,
    memory_masks: Masks,
}

impl TransformerDecoderInput {
    /// `target`: `[batch, targets, d_model]`; `memory`, an encoder's output: `[batch, tokens, d_model]`.
    pub fn new(target: Tensor<3>, memory: Tensor<3>) -> Self {
        Self {
            target,
            target_masks: Masks::default(),
            memory,
            memory_masks: Masks::default(),
        }
    }

    /// `[batch, targets]`, true at targets that no target attends to.
    pub fn target_mask_pad(mut self, mask: Tensor<2, Bool>) -> Self {
        self.target_masks.pad = Some(mask);
        self
    }

    /// `[batch, targets, targets]`, true where a target does not attend to another;
    /// [`causal`](Self::causal) is faster.
    pub fn target_mask_attn(mut self, mask: Tensor<3, Bool>) -> Self {
        self.target_masks.attn = Some(mask);
        self
    }

    /// Each target attends to itself and to those before it only.
    pub fn causal(mut self) -> Self {
        self.target_masks.is_causal = true;
        self
    }

    /// `[batch, tokens]`, true at tokens that no target attends to.
    pub fn memory_mask_pad(mut self, mask: Tensor<2, Bool>) -> Self {
        self.memory_masks.pad = Some(mask);
        self
    }

    /// `[batch, targets, tokens]`, true where a target does not attend to a token.
    pub fn memory_mask_attn(mut self, mask: Tensor<3, Bool>) -> Self {
        self.memory_masks.attn = Some(mask);
        self
    }
}

impl Activations for TransformerDecoderInput {
    fn map(self, map: &mut impl MapActivations) -> Self {
        Self {
            target: map.map(self.target),
            memory: map.map(self.memory),
            ..self
        }
    }
}

/// A stack of self-attention, cross-attention and feed-forward layers, as Burn's `TransformerDecoder`.
///
/// Each layer is called as a [`unit`](crate::unit()), and every parameter is sharded, as in
/// [`TransformerEncoder`](super::TransformerEncoder).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::nn::{TransformerDecoderConfig, TransformerDecoderInput};
///
/// let device = Device::flex();
/// let decoder = TransformerDecoderConfig::new(8, 32, 2, 3).init(&device);
/// let (target, memory) = (Tensor::ones([2, 4, 8], &device), Tensor::ones([2, 5, 8], &device));
/// let y = decoder.forward(TransformerDecoderInput::new(target, memory).causal());
/// assert_eq!(y.dims(), [2, 4, 8]);
/// ```
#[derive(Module, Debug)]
pub struct TransformerDecoder {
    /// In the order in which they run.
    pub layers: Vec<TransformerDecoderLayer>,
}

impl TransformerDecoder {
    /// Output: `[batch, targets, d_model]`.
    pub fn forward(&self, mut input: TransformerDecoderInput) -> Tensor<3> {
        for layer in &self.layers {
            input.target = unit(layer, input.clone(), TransformerDecoderLayer::forward);
        }
        input.target
    }
}

/// One layer of a [`TransformerDecoder`].
#[derive(Module, Debug)]
pub struct TransformerDecoderLayer {
    /// From targets to the encoder's output.
    pub cross_attn: MultiHeadAttention,
    /// Among targets.
    pub self_attn: MultiHeadAttention,
    /// Mixes the features of each target.
    pub pwff: FeedForward,
    /// Around the cross-attention.
    pub norm_1: LayerNorm,
    /// Around the feed-forward part.
    pub norm_2: LayerNorm,
    /// Around the self-attention.
    pub norm_3: LayerNorm,
    /// Of what a branch adds.
    pub dropout: Dropout,
    /// Whether a branch is normalised before it, not after the sum.
    pub norm_first: bool,
}

impl TransformerDecoderLayer {
    /// A layer of a decoder with these settings.
    pub fn new(config: &TransformerDecoderConfig, device: &Device) -> Self {
        let parts = config.parts();
        Self {
            self_attn: parts.attention(device),
            cross_attn: parts.attention(device),
            norm_1: parts.norm(device),
            norm_2: parts.norm(device),
            norm_3: parts.norm(device),
            pwff: parts.feed_forward(device),
            dropout: parts.dropout(),
            norm_first: config.norm_first,
        }
    }

    /// Output: `[batch, targets, d_model]`.
    pub fn forward(&self, input: TransformerDecoderInput) -> Tensor<3> {
        let TransformerDecoderInput {
            target: x,
            target_masks,
            memory,
            memory_masks,
        } = input;
        let attend = |x: Tensor<3>| {
            let attention = MhaInput::self_attn(x).with(target_masks);
            self.dropout
                .forward(self.self_attn.forward(attention).context)
        };
        let look = |x: Tensor<3>| {
            let attention = MhaInput::new(x, memory.clone(), memory).with(memory_masks);
            self.dropout
                .forward(self.cross_attn.forward(attention).context)
        };
        let feed = |x: Tensor<3>| self.dropout.forward(self.pwff.forward(x));
        if self.norm_first {
            let x = x.clone() + attend(self.norm_3.forward(x));
            let x = x.clone() + look(self.norm_1.forward(x));
            x.clone() + feed(self.norm_2.forward(x))
        } else {
            let x = self.norm_1.forward(x.clone() + attend(x));
            let x = self.norm_2.forward(x.clone() + look(x));
            self.norm_3.forward(x.clone() + feed(x))
        }
    }
}
