//! Multi-head attention.

use super::functional::{self, attention};
use super::half::{narrowed, widened};
use super::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::tensor::activation::{quiet_softmax, softmax};
use burn::tensor::{Bool, Device, Tensor};

/// What Burn's layer writes over the scores of keys that are masked.
const MIN_FLOAT: f64 = -1.0e4;

/// Settings of a [`MultiHeadAttention`]; those of Burn's `MultiHeadAttentionConfig`.
#[derive(Config, Debug)]
pub struct MultiHeadAttentionConfig {
    /// Features of input and output.
    pub d_model: usize,
    /// Number of heads; they divide the features.
    pub n_heads: usize,
    /// The probability of dropping an attention probability.
    #[config(default = 0.1)]
    pub dropout: f64,
    /// The score of a key that is masked.
    #[config(default = "MIN_FLOAT")]
    pub min_float: f64,
    /// Whether a head may attend to nothing.
    #[config(default = false)]
    pub quiet_softmax: bool,
    /// What the parameters are drawn from.
    #[config(default = "super::kaiming()")]
    pub initializer: Initializer,
    /// Whether the keys' layer has a bias.
    #[config(default = true)]
    pub key_bias: bool,
    /// Whether the values' layer has a bias.
    #[config(default = true)]
    pub value_bias: bool,
    /// Whether the queries' layer has a bias.
    #[config(default = true)]
    pub query_bias: bool,
    /// Whether the output's layer has a bias.
    #[config(default = true)]
    pub output_bias: bool,
}

impl MultiHeadAttentionConfig {
    /// The layer; nothing is drawn before it is used or sharded.
    ///
    /// # Panics
    /// If the heads do not divide the features.
    pub fn init(&self, device: &Device) -> MultiHeadAttention {
        let (features, heads) = (self.d_model, self.n_heads);
        assert!(
            heads > 0 && features.is_multiple_of(heads),
            "a number of heads that divides {features} features is expected, found {heads}"
        );
        let linear = |bias| {
            let linear = LinearConfig::new(features, features).with_bias(bias);
            linear
                .with_initializer(self.initializer.clone())
                .init(device)
        };
        MultiHeadAttention {
            query: linear(self.query_bias),
            key: linear(self.key_bias),
            value: linear(self.value_bias),
            output: linear(self.output_bias),
            dropout: DropoutConfig::new(self.dropout).init(),
            d_model: features,
            n_heads: heads,
            d_k: features / heads,
            min_float: self.min_float,
            quiet_softmax: self.quiet_softmax,
        }
    }
}

/// What a [`MultiHeadAttention`] attends from and to.
#[derive(Debug, Clone)]
pub struct MhaInput {
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    masks: Masks,
}

/// Which keys a query does not attend to.
#[derive(Debug, Clone, Default)]
pub(super) struct Masks {
    /// `[batch, keys]`, true at keys that no query attends to.
    pub(super) pad: Option<Tensor<2, Bool>>,
    /// `[batch, queries, keys]`, true at keys that a query does not attend to.
    pub(super) attn: Option<Tensor<3, Bool>>,
    /// Query `i` attends to keys `0..=i` only.
    pub(super) is_causal: bool,
}

impl MhaInput {
    /// All tokens of `x`, `[batch, tokens, d_model]`, to all of them.
    pub fn self_attn(x: Tensor<3>) -> Self {
        Self::new(x.clone(), x.clone(), x)
    }

    /// `query`: `[batch, queries, d_model]`; `key` and `value`: `[batch, keys, d_model]`.
    pub fn new(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>) -> Self {
        Self {
            query,
            key,
            value,
            masks: Masks::default(),
        }
    }

    /// The same with these masks.
    pub(super) fn with(self, masks: Masks) -> Self {
        Self { masks, ..self }
    }

    /// `[batch, keys]`, true at keys that no query attends to.
    pub fn mask_pad(mut self, mask: Tensor<2, Bool>) -> Self {
        self.masks.pad = Some(mask);
        self
    }

    /// `[batch, queries, keys]`, true at keys that a query does not attend to.
    ///
    /// Such a mask takes the composition of Burn's operations; [`causal`](Self::causal) is faster.
    pub fn mask_attn(mut self, mask: Tensor<3, Bool>) -> Self {
        self.masks.attn = Some(mask);
        self
    }

    /// Query `i` attends to keys `0..=i` only. Burn's input has no such method: it takes a mask.
    pub fn causal(mut self) -> Self {
        self.masks.is_causal = true;
        self
    }
}

/// What a [`MultiHeadAttention`] returns.
#[derive(Debug, Clone)]
pub struct MhaOutput {
    /// `[batch, queries, d_model]`
    pub context: Tensor<3>,
}

/// Attention in several heads, as Burn's `MultiHeadAttention`.
///
/// The attention is one operation on a CPU, which keeps no probabilities for backward; so none are returned. With a
/// [`mask_attn`](MhaInput::mask_attn), a quiet softmax or another `min_float` it is a composition of Burn's
/// operations, which does keep them. Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::nn::{MhaInput, MultiHeadAttentionConfig};
///
/// let device = Device::flex();
/// let attention = MultiHeadAttentionConfig::new(8, 2).init(&device);
/// let x = Tensor::<3>::ones([2, 5, 8], &device);
/// assert_eq!(attention.forward(MhaInput::self_attn(x).causal()).context.dims(), [2, 5, 8]);
/// ```
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    /// The queries' layer.
    pub query: Linear,
    /// The keys' layer.
    pub key: Linear,
    /// The values' layer.
    pub value: Linear,
    /// The layer over the heads' outputs.
    pub output: Linear,
    /// Of the attention probabilities.
    pub dropout: Dropout,
    /// Features of input and output.
    pub d_model: usize,
    /// Number of heads.
    pub n_heads: usize,
    /// Features of a head.
    pub d_k: usize,
    /// The score of a key that is masked.
    pub min_float: f64,
    /// Whether a head may attend to nothing.
    pub quiet_softmax: bool,
}

impl MultiHeadAttention {
    /// What the queries find: `[batch, queries, d_model]`. The probabilities are computed in f32 where the input is
    /// f16 or bf16.
    pub fn forward(&self, input: MhaInput) -> MhaOutput {
        let MhaInput {
            query,
            key,
            value,
            masks,
        } = input;
        let query = self.query.forward(query);
        let (key, value) = (self.key.forward(key), self.value.forward(value));
        let is_plain =
            masks.attn.is_none() && !self.quiet_softmax && (self.min_float - MIN_FLOAT).abs() < 1.0;
        let heads = if is_plain {
            let dropout = self.dropout.mask(&query.device());
            let how = functional::Attention {
                padding: masks.pad,
                is_causal: masks.is_causal,
                dropout,
                ..functional::Attention::new(self.n_heads)
            };
            attention(query, key, value, how)
        } else {
            self.composed([query, key, value], masks)
        };
        MhaOutput {
            context: self.output.forward(heads),
        }
    }

    fn composed(&self, projected: [Tensor<3>; 3], masks: Masks) -> Tensor<3> {
        let [batch, queries, width] = projected[0].dims();
        let [query, key, value] = projected.map(|x| {
            let [batch, tokens, _] = x.dims();
            x.reshape([batch, tokens, self.n_heads, self.d_k])
                .swap_dims(1, 2)
        });
        let scores = query.matmul(key.transpose()) * (self.d_k as f64).powf(-0.5);
        let dtype = scores.dtype();
        let mut scores = widened(scores);
        let shape = scores.dims();
        let keys = shape[3];
        if let Some(mask) = masks.pad {
            let mask = mask.reshape([batch, 1, 1, keys]).expand(shape);
            scores = scores.mask_fill(mask, self.min_float);
        }
        if let Some(mask) = masks.attn {
            let mask = mask.reshape([batch, 1, queries, keys]).expand(shape);
            scores = scores.mask_fill(mask, self.min_float);
        }
        if masks.is_causal {
            let later = Tensor::<2, Bool>::tril_mask([queries, keys], 0, &scores.device());
            let later = later.reshape([1, 1, queries, keys]).expand(shape);
            scores = scores.mask_fill(later, f32::NEG_INFINITY);
        }
        let probabilities = if self.quiet_softmax {
            quiet_softmax(scores, 3)
        } else {
            softmax(scores, 3)
        };
        let probabilities = self.dropout.forward(narrowed(probabilities, dtype));
        let heads = probabilities.matmul(value).swap_dims(1, 2);
        heads.reshape([batch, queries, width])
    }
}
