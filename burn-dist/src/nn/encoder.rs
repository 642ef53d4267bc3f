//! The encoder of a transformer, each of whose layers is a unit.

use super::attention::Masks;
use super::transformer::TransformerConfig;
use super::{Dropout, FeedForward, LayerNorm, MhaInput, MultiHeadAttention};
use crate::{Activations, MapActivations, unit};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::activation::ActivationConfig;
use burn::tensor::{Bool, Device, Tensor};

/// Settings of a [`TransformerEncoder`]; those of Burn's `TransformerEncoderConfig`.
#[derive(Config, Debug)]
pub struct TransformerEncoderConfig {
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

impl TransformerEncoderConfig {
    /// The encoder; nothing is drawn before it is used or sharded.
    pub fn init(&self, device: &Device) -> TransformerEncoder {
        let layer = |_| TransformerEncoderLayer::new(self, device);
        TransformerEncoder {
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

/// What a [`TransformerEncoder`] reads.
#[derive(Debug, Clone)]
pub struct TransformerEncoderInput {
    tensor: Tensor<3>,
    masks: Masks,
}

impl TransformerEncoderInput {
    /// `x`: `[batch, tokens, d_model]`.
    pub fn new(x: Tensor<3>) -> Self {
        Self {
            tensor: x,
            masks: Masks::default(),
        }
    }

    /// `[batch, tokens]`, true at tokens that no token attends to.
    pub fn mask_pad(mut self, mask: Tensor<2, Bool>) -> Self {
        self.masks.pad = Some(mask);
        self
    }

    /// `[batch, tokens, tokens]`, true where a token does not attend to another; [`causal`](Self::causal) is faster.
    pub fn mask_attn(mut self, mask: Tensor<3, Bool>) -> Self {
        self.masks.attn = Some(mask);
        self
    }

    /// Each token attends to itself and to those before it only.
    pub fn causal(mut self) -> Self {
        self.masks.is_causal = true;
        self
    }
}

impl Activations for TransformerEncoderInput {
    fn map(self, map: &mut impl MapActivations) -> Self {
        Self {
            tensor: map.map(self.tensor),
            ..self
        }
    }
}

/// A stack of self-attention and feed-forward layers, as Burn's `TransformerEncoder`.
///
/// Each layer is called as a [`unit`](crate::unit()), so that sharding needs nothing from who uses it but a `unit`
/// around the whole model. Every parameter is sharded. There is no autoregressive cache: load a record into Burn's
/// encoder for that, whose paths are the same.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::nn::{TransformerEncoderConfig, TransformerEncoderInput};
///
/// let device = Device::flex();
/// let encoder = TransformerEncoderConfig::new(8, 32, 2, 3).init(&device);
/// let x = Tensor::<3>::ones([2, 5, 8], &device);
/// let y = encoder.forward(TransformerEncoderInput::new(x).causal());
/// assert_eq!(y.dims(), [2, 5, 8]);
/// ```
#[derive(Module, Debug)]
pub struct TransformerEncoder {
    /// In the order in which they run.
    pub layers: Vec<TransformerEncoderLayer>,
}

impl TransformerEncoder {
    /// Output: `[batch, tokens, d_model]`.
    pub fn forward(&self, input: TransformerEncoderInput) -> Tensor<3> {
        let TransformerEncoderInput { mut tensor, masks } = input;
        for layer in &self.layers {
            let masks = masks.clone();
            let input = TransformerEncoderInput { tensor, masks };
            tensor = unit(layer, input, TransformerEncoderLayer::forward);
        }
        tensor
    }
}

/// One layer of a [`TransformerEncoder`].
#[derive(Module, Debug)]
pub struct TransformerEncoderLayer {
    /// Mixes tokens.
    pub mha: MultiHeadAttention,
    /// Mixes the features of each token.
    pub pwff: FeedForward,
    /// Around the feed-forward part.
    pub norm_1: LayerNorm,
    /// Around the attention.
    pub norm_2: LayerNorm,
    /// Of what a branch adds.
    pub dropout: Dropout,
    /// Whether a branch is normalised before it, not after the sum.
    pub norm_first: bool,
}

impl TransformerEncoderLayer {
    /// A layer of an encoder with these settings.
    pub fn new(config: &TransformerEncoderConfig, device: &Device) -> Self {
        let parts = config.parts();
        Self {
            mha: parts.attention(device),
            norm_1: parts.norm(device),
            norm_2: parts.norm(device),
            pwff: parts.feed_forward(device),
            dropout: parts.dropout(),
            norm_first: config.norm_first,
        }
    }

    /// Output: `[batch, tokens, d_model]`.
    pub fn forward(&self, input: TransformerEncoderInput) -> Tensor<3> {
        let TransformerEncoderInput { tensor: x, masks } = input;
        let attend = |x: Tensor<3>| {
            let attention = MhaInput::self_attn(x).with(masks);
            self.dropout.forward(self.mha.forward(attention).context)
        };
        let feed = |x: Tensor<3>| self.dropout.forward(self.pwff.forward(x));
        if self.norm_first {
            let x = x.clone() + attend(self.norm_2.forward(x));
            x.clone() + feed(self.norm_1.forward(x))
        } else {
            let x = self.norm_1.forward(x.clone() + attend(x));
            self.norm_2.forward(x.clone() + feed(x))
        }
    }
}
