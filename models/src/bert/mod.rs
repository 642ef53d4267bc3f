//! BERT: a bidirectional transformer encoder over texts.
//!
//! Post-norm blocks over the sum of word, position and type embeddings, as in Devlin et al., 2018,
//! <https://arxiv.org/abs/1810.04805>; [`Family::DistilBert`] is the shape of Sanh et al., 2019,
//! <https://arxiv.org/abs/1910.01108>. Three models share the encoder [`Bert`]: alone it gives the hidden
//! states, in a [`BertClassifier`] the class of a text, in a [`BertMaskedLm`] the masked words.
//! Every parameter has its counterpart in a Hugging Face checkpoint ([`hf_name`]).

mod block;
mod classifier;
mod config;
mod embeddings;
mod flops;
mod hf;
mod json;
mod masked_lm;
mod tokens;

pub use block::Block;
pub use classifier::BertClassifier;
pub use config::{BertConfig, Family};
pub use embeddings::Embeddings;
pub use hf::{hf_name, hf_path};
pub use json::Head;
pub use masked_lm::BertMaskedLm;
pub use tokens::Tokens;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_dist::unit;

use crate::config::ConfigError;

/// The encoder, from tokens to hidden states; made by [`BertConfig::init`].
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_models::{BertConfig, bert::Tokens};
///
/// # fn main() -> Result<(), burn_dist_models::ConfigError> {
/// let device = Device::flex();
/// let bert = BertConfig::tiny().with_vocab(100).init(&device)?;
/// let ids = Tensor::<2, Int>::from_data([[2, 17, 42, 3], [2, 5, 3, 0]], &device);
/// assert_eq!(bert.forward(Tokens::new(ids)).dims(), [2, 4, 128]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Bert {
    /// The embeddings of the tokens.
    pub embeddings: Embeddings,
    /// The transformer blocks, in order.
    pub blocks: Vec<Block>,
    /// The architecture.
    #[module(skip)]
    pub family: Family,
}

impl BertConfig {
    /// The encoder, with parameters that are drawn when they are first used: nothing is allocated yet.
    ///
    /// Weights and tables follow a normal distribution of deviation `init_std`, cut at two deviations; biases
    /// start at 0, norms at the identity.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Bert, ConfigError> {
        self.validate()?;
        let block = |_| Block::new(self, device);
        Ok(Bert {
            embeddings: Embeddings::new(self, device),
            blocks: (0..self.blocks).map(block).collect(),
            family: self.family,
        })
    }
}

impl Bert {
    /// The hidden states of a batch, on a device with a tape with the configured dropout; output:
    /// `[batch, tokens, width]`.
    ///
    /// Those of padding are meaningless.
    ///
    /// # Panics
    ///
    /// As Burn's tensor operations, if a text is longer than the model has positions, or an id lies outside
    /// the vocabulary.
    pub fn forward(&self, tokens: Tokens) -> Tensor<3> {
        unit(self, tokens.into_inputs(), Self::encode)
    }

    /// The forward of the encoder inside the unit of the model around it.
    fn encode(&self, (ids, types, padding): tokens::Inputs) -> Tensor<3> {
        let mut x = self.embeddings.forward(ids, types);
        for block in &self.blocks {
            let inputs = (x, padding.clone());
            x = unit(block, inputs, |block: &Block, (x, padding)| {
                block.forward(x, padding)
            });
        }
        x
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{Int, TensorData};
    use burn_dist::Noise;

    fn small() -> BertConfig {
        BertConfig::tiny()
            .with_vocab(50)
            .with_width(32)
            .with_mlp_width(64)
            .with_init_std(0.2)
    }

    fn quiet() -> BertConfig {
        small()
            .with_dropout(0.0)
            .with_attention_dropout(0.0)
            .with_head_dropout(0.0)
    }

    fn tokens(device: &Device) -> Tokens {
        let ids = [[2, 17, 42, 9, 3], [2, 5, 8, 31, 3]];
        Tokens::new(Tensor::<2, Int>::from_data(ids, device))
    }

    /// The same texts with padding behind them.
    fn padded(device: &Device) -> Tokens {
        let padding = Tensor::<2, Int>::zeros([2, 3], device);
        let ids = Tensor::cat(vec![tokens(device).ids, padding], 1);
        let padding = ids.clone().equal_elem(0);
        Tokens::new(ids).with_padding(padding)
    }

    fn largest<const D: usize>(x: Tensor<D>) -> f32 {
        x.abs().max().into_scalar()
    }

    #[test]
    fn padding_does_not_change_outputs() {
        let device = Device::flex();
        for family in [Family::Bert, Family::DistilBert] {
            let config = small().with_family(family);
            let classifier = config.init_classifier(4, &device).unwrap();
            let difference =
                classifier.forward(padded(&device)) - classifier.forward(tokens(&device));
            let difference = largest(difference);
            assert!(difference < 1e-5, "{difference}");

            let words = config.init_masked_lm(&device).unwrap();
            let short = words.forward(padded(&device)).narrow(1, 0, 5);
            let difference = largest(short - words.forward(tokens(&device)));
            assert!(difference < 1e-5, "{difference}");
        }
        // Without the mask the outputs differ.
        let model = small().init_classifier(4, &device).unwrap();
        let unmasked = Tokens::new(padded(&device).ids);
        let difference = largest(model.forward(unmasked) - model.forward(tokens(&device)));
        assert!(difference > 1e-3, "{difference}");
    }

    #[test]
    fn gradients_are_finite_for_a_sample_of_only_padding() {
        let device = Device::flex().autodiff();
        let model = small().init_classifier(4, &device).unwrap();
        let Tokens { ids, .. } = tokens(&device);
        let padding = Tensor::from_data([[false; 5], [true; 5]], &device);
        let logits = model.forward(Tokens::new(ids).with_padding(padding));
        let grads = logits.powi_scalar(2).sum().backward();
        let words = model.bert.embeddings.words.val().grad(&grads).unwrap();
        assert!(words.into_data().iter::<f32>().all(f32::is_finite));
    }

    #[test]
    fn tokens_without_types_are_of_type_0() {
        let device = Device::flex();
        let model = small().init(&device).unwrap();
        let with = |types: TensorData| {
            let types = Tensor::from_data(types, &device);
            model.forward(tokens(&device).with_types(types))
        };
        let without = model.forward(tokens(&device)).into_data();
        let first = with(TensorData::from([[0; 5], [0; 5]])).into_data();
        first.assert_eq(&without, true);
        let second = with(TensorData::from([[0, 0, 1, 1, 1], [0; 5]]));
        assert_ne!(second.into_data(), without);
    }

    #[test]
    fn noise_replays_and_differs_between_ranks_and_steps() {
        let device = Device::flex().autodiff();
        let rates = [
            quiet().with_dropout(0.1),
            quiet().with_attention_dropout(0.1),
            quiet().with_head_dropout(0.1),
        ];
        for config in rates {
            let model = config.init_classifier(10, &device).unwrap();
            let logits = |step, rank| {
                let noise = Noise::new(5, step, rank);
                let logits = noise.layers(|| model.forward(padded(&device)));
                logits.into_data()
            };
            assert_eq!(logits(0, 0), logits(0, 0), "{config:?}");
            assert_ne!(logits(0, 0), logits(1, 0), "{config:?}");
            assert_ne!(logits(0, 0), logits(0, 1), "{config:?}");
        }
    }

    #[test]
    fn with_all_rates_0_training_and_evaluation_agree() {
        let device = Device::flex().autodiff();
        let model = quiet().init_masked_lm(&device).unwrap();
        let train = model.forward(padded(&device));
        let valid = model.valid().forward(padded(&Device::flex()));
        assert_eq!(train.into_data(), valid.into_data());
    }

    #[test]
    fn evaluation_ignores_the_rates() {
        let device = Device::flex();
        let model = small().init_classifier(4, &device).unwrap();
        let logits = || model.forward(tokens(&device)).into_data();
        assert_eq!(logits(), logits());
    }
}
