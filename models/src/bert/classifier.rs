//! The classifier of texts, which reads the first token's state.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use burn_dist::nn::{Dropout, DropoutConfig, Linear};
use burn_dist::unit;

use super::{Bert, BertConfig, Family, Tokens};
use crate::config::{self, ConfigError};
use crate::init;

/// A BERT that classifies texts; made by [`BertConfig::init_classifier`].
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_models::{BertConfig, bert::Tokens};
///
/// # fn main() -> Result<(), burn_dist_models::ConfigError> {
/// let device = Device::flex();
/// let model = BertConfig::tiny().with_vocab(100).init_classifier(4, &device)?;
/// let ids = Tensor::<2, Int>::from_data([[2, 17, 42, 3], [2, 5, 3, 0]], &device);
/// let padding = ids.clone().equal_elem(0);
/// let logits = model.forward(Tokens::new(ids).with_padding(padding));
/// assert_eq!(logits.dims(), [2, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct BertClassifier {
    /// The encoder.
    pub bert: Bert,
    /// The pooler: a layer over the first token's state, before a tanh, or in DistilBERT a ReLU.
    pub pooler: Linear,
    /// The classifier.
    pub head: Linear,
    /// Of what the classifier reads.
    pub dropout: Dropout,
}

impl BertConfig {
    /// A classifier of texts into `classes`, drawn lazily as by [`init`](Self::init).
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate), and [`ConfigError::Zero`] if there are no classes.
    pub fn init_classifier(
        &self,
        classes: usize,
        device: &Device,
    ) -> Result<BertClassifier, ConfigError> {
        config::sizes(&[("classes", classes)])?;
        Ok(BertClassifier {
            bert: self.init(device)?,
            pooler: init::linear(self.width, self.width, self.init_std, device),
            head: init::linear(self.width, classes, self.init_std, device),
            dropout: DropoutConfig::new(self.head_dropout).init(),
        })
    }
}

impl BertClassifier {
    /// The logits of a batch, on a device with a tape with the configured dropout; output: `[batch, classes]`.
    ///
    /// # Panics
    ///
    /// As [`Bert::forward`].
    pub fn forward(&self, tokens: Tokens) -> Tensor<2> {
        unit(self, tokens.into_inputs(), |model: &Self, inputs| {
            let x = model.bert.encode(inputs);
            let first = x.narrow(1, 0, 1).squeeze_dim::<2>(1);
            let pooled = model.pooler.forward(first);
            let pooled = match model.bert.family {
                Family::Bert => pooled.tanh(),
                Family::DistilBert => relu(pooled),
            };
            model.head.forward(model.dropout.forward(pooled))
        })
    }
}
