//! The masked language model: it predicts masked words from those around them.

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use burn_dist::{Noise, unit};

use super::{Bert, BertConfig, Tokens};
use crate::config::ConfigError;
use crate::transformer::{fold, init, norm};

/// A BERT that scores every word of the vocabulary at every place; made by
/// [`BertConfig::init_masked_lm`].
///
/// The decoder is tied to the word embeddings: one parameter, used at the input and, transposed, at the output. It
/// is in the model's root, so that it is gathered once, and the sum of its two gradients is reduced once. The
/// loss is
/// [`cross_entropy_masked_sum`](crate::loss::cross_entropy_masked_sum).
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_models::{BertConfig, bert::Tokens};
///
/// # fn main() -> Result<(), burn_dist_models::ConfigError> {
/// let device = Device::flex();
/// let model = BertConfig::tiny().with_vocab(100).init_masked_lm(&device)?;
/// let ids = Tensor::<2, Int>::from_data([[2, 17, 42, 3], [2, 5, 3, 0]], &device);
/// assert_eq!(model.forward(Tokens::new(ids)).dims(), [2, 4, 100]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct BertMaskedLm {
    /// The encoder, whose word embeddings are the decoder too.
    pub bert: Bert,
    /// Before the decoder: `[width, width]`, and a GELU.
    pub transform: Linear,
    /// Between GELU and decoder.
    pub norm: LayerNorm,
    /// `[vocab]`: the bias of the decoder.
    pub bias: Param<Tensor<1>>,
}

impl BertConfig {
    /// A masked language model, drawn lazily as by [`init`](Self::init).
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate).
    pub fn init_masked_lm(&self, device: &Device) -> Result<BertMaskedLm, ConfigError> {
        Ok(BertMaskedLm {
            bert: self.init(device)?,
            transform: init::linear(self.width, self.width, self.init_std, device),
            norm: LayerNormConfig::new(self.width)
                .with_epsilon(self.norm_eps)
                .init(device),
            bias: init::zeros([self.vocab], device),
        })
    }
}

impl BertMaskedLm {
    /// The logits of a batch, without dropout; output: `[batch, tokens, vocab]`.
    ///
    /// # Panics
    ///
    /// As [`Bert::forward`].
    pub fn forward(&self, tokens: Tokens) -> Tensor<3> {
        self.logits(tokens, None)
    }

    /// The logits of a batch with the configured dropout, drawn from `noise`.
    ///
    /// Shapes and panics are those of [`forward`](Self::forward), which it equals when all rates are 0.
    pub fn forward_train(&self, tokens: Tokens, noise: Noise) -> Tensor<3> {
        self.logits(tokens, Some(noise))
    }

    fn logits(&self, tokens: Tokens, noise: Option<Noise>) -> Tensor<3> {
        unit(self, tokens.into_inputs(), move |model: &Self, inputs| {
            let x = model.bert.encode(inputs, noise);
            let [batch, tokens, _] = x.dims();
            let x = gelu(model.transform.forward(fold(x)));
            let decoder = model.bert.embeddings.words.val().transpose();
            let [_, vocab] = decoder.dims();
            let logits = norm(&model.norm, x).matmul(decoder) + model.bias.val().unsqueeze();
            logits.reshape([batch, tokens, vocab])
        })
    }
}
