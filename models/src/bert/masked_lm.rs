//! The masked language model: it predicts masked words from those around them.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::nn::functional::gelu;
use burn_dist::nn::{LayerNorm, Linear};
use burn_dist::unit;

use super::{Bert, BertConfig, Tokens};
use crate::config::ConfigError;
use crate::init;
use burn_dist::nn::loss::{CrossEntropy, IGNORED};

/// A BERT that scores every word of the vocabulary at every place; made by
/// [`BertConfig::init_masked_lm`].
///
/// The decoder is tied to the word embeddings: one parameter, used at the input and, transposed, at the output. It
/// is in the model's root, so that it is gathered once, and the sum of its two gradients is reduced once. The
/// loss is a [`CrossEntropy`] that ignores [`IGNORED`].
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
            norm: init::norm(self.width, self.norm_eps, device),
            bias: init::zeros([self.vocab], device),
        })
    }
}

impl BertMaskedLm {
    /// The logits of a batch, on a device with a tape with the configured dropout; output:
    /// `[batch, tokens, vocab]`.
    ///
    /// # Panics
    ///
    /// As [`Bert::forward`].
    pub fn forward(&self, tokens: Tokens) -> Tensor<3> {
        unit(self, tokens.into_inputs(), |model: &Self, inputs| {
            let x = model.bert.encode(inputs);
            let [batch, tokens, _] = x.dims();
            let logits = model.decode(x.flatten(0, 1));
            let [_, vocab] = logits.dims();
            logits.reshape([batch, tokens, vocab])
        })
    }

    /// The loss of a batch of masked words: the sum of their cross-entropies and how many there are, two tensors
    /// of one element.
    ///
    /// - `labels`: `[batch, tokens]`, the word at each masked place and [`IGNORED`] elsewhere.
    ///
    /// The decoder multiplies the masked places alone, which is exact: a seventh of the scores where a seventh of the
    /// words is masked, and no logits of the others in memory. The labels are read on the host,
    /// which on a GPU waits for them. Sum over the ranks before dividing: they
    /// have different counts.
    ///
    /// # Panics
    ///
    /// As [`Bert::forward`], if there is not a label for each token, and if a label is neither a word nor
    /// [`IGNORED`].
    ///
    /// # Example
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_dist::nn::loss::IGNORED;
    /// use burn_dist_models::{BertConfig, bert::Tokens};
    ///
    /// # fn main() -> Result<(), burn_dist_models::ConfigError> {
    /// let device = Device::flex();
    /// let model = BertConfig::tiny().with_vocab(100).init_masked_lm(&device)?;
    /// let ids = Tensor::<2, Int>::from_data([[2, 4, 42, 3]], &device);
    /// let labels = Tensor::<2, Int>::from_data([[IGNORED, 17, IGNORED, IGNORED]], &device);
    /// let (sum, count) = model.loss(Tokens::new(ids), labels);
    /// assert!(sum.into_scalar::<f32>() > 0.0);
    /// assert_eq!(count.into_scalar::<i64>(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn loss(&self, tokens: Tokens, labels: Tensor<2, Int>) -> (Tensor<1>, Tensor<1, Int>) {
        assert_eq!(labels.dims(), tokens.dims(), "a label for each token");
        let device = labels.device();
        let labels: Vec<i64> = labels.into_data().iter::<i64>().collect();
        let places = labels.iter().enumerate();
        let mut places: Vec<i64> = places
            .filter(|(_, label)| **label != IGNORED)
            .map(|(place, _)| place as i64)
            .collect();
        if places.is_empty() && !labels.is_empty() {
            // One place that counts nothing: every rank's decoder takes part in the pass.
            places.push(0);
        }
        let labels: Vec<i64> = places.iter().map(|place| labels[*place as usize]).collect();
        let integers = |of: Vec<i64>| {
            let count = of.len();
            Tensor::<1, Int>::from_data(TensorData::new(of, [count]), &device)
        };
        let (places, labels) = (integers(places), integers(labels));
        let logits = unit(self, tokens.into_inputs(), move |model: &Self, inputs| {
            let x = model.bert.encode(inputs).flatten::<2>(0, 1);
            model.decode(x.select(0, places.clone()))
        });
        masked_sum(logits, labels)
    }

    /// The scores of all words; `x`: `[rows, width]`, output: `[rows, vocab]`.
    fn decode(&self, x: Tensor<2>) -> Tensor<2> {
        let x = self.norm.forward(gelu(self.transform.forward(x)));
        let decoder = self.bert.embeddings.words.val().transpose();
        x.matmul(decoder) + self.bias.val().unsqueeze()
    }
}

/// The summed loss of `[rows, vocab]` scores, and the number of rows that have a label, both on the device.
fn masked_sum(logits: Tensor<2>, labels: Tensor<1, Int>) -> (Tensor<1>, Tensor<1, Int>) {
    let count = labels.clone().not_equal_elem(IGNORED).int().sum();
    let loss = CrossEntropy::new().ignore(IGNORED);
    (loss.sum(logits, labels, None), count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::module::ModuleVisitor;
    use burn::optim::GradientsParams;
    use burn::tensor::Gradients;

    struct Flat<'a>(&'a GradientsParams, Vec<f64>);

    impl ModuleVisitor for Flat<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id).unwrap().into_data();
            self.1.extend(gradient.iter::<f64>());
        }
    }

    fn flat(gradients: Gradients, model: &BertMaskedLm) -> Vec<f64> {
        let gradients = GradientsParams::from_grads(gradients, model);
        let mut flat = Flat(&gradients, Vec::new());
        model.visit(&mut flat);
        flat.1
    }

    /// The loss over all places, most of which have no label, and its gradients.
    #[test]
    fn decoding_the_masked_places_alone_changes_nothing() {
        let device = Device::flex().autodiff();
        let config = BertConfig::tiny().with_vocab(50).with_init_std(0.2);
        let config = config.with_dropout(0.0).with_attention_dropout(0.0);
        let model = config.init_masked_lm(&device).unwrap();
        let ids = Tensor::<2, Int>::from_data([[2, 17, 42, 3, 0], [2, 5, 7, 9, 3]], &device);
        let tokens = || Tokens::new(ids.clone()).with_padding(ids.clone().equal_elem(0));
        let none = [IGNORED; 5];
        for labels in [
            [none, [IGNORED, 30, IGNORED, 49, 0]],
            [[IGNORED, IGNORED, 12, IGNORED, IGNORED], none],
            [none; 2],
        ] {
            let labels = Tensor::<2, Int>::from_data(labels, &device);
            let logits = model.forward(tokens()).flatten(0, 1);
            let all = masked_sum(logits, labels.clone().flatten(0, 1));
            let found = model.loss(tokens(), labels);
            assert_eq!(found.1.into_scalar::<i64>(), all.1.into_scalar::<i64>());
            let [found_sum, sum] = [&found.0, &all.0].map(|x| x.clone().into_scalar::<f32>());
            assert!(
                (found_sum - sum).abs() <= 1e-6 * sum,
                "{found_sum} for {sum}"
            );

            let wanted = flat(all.0.backward(), &model);
            let found = flat(found.0.backward(), &model);
            let largest = wanted.iter().fold(1e-30f64, |max, x| max.max(x.abs()));
            let pairs = found.iter().zip(&wanted);
            let apart = pairs.fold(0f64, |max, (a, b)| max.max((a - b).abs()));
            assert!(apart <= 1e-5 * largest, "{apart} of {largest}");
        }
    }

    #[test]
    #[should_panic(expected = "a label for each token")]
    fn labels_of_another_shape_are_refused() {
        let device = Device::flex();
        let model = BertConfig::tiny().with_vocab(50).init_masked_lm(&device);
        let ids = Tensor::<2, Int>::from_data([[2, 17, 42], [2, 5, 7]], &device);
        let labels = Tensor::<2, Int>::from_data([[IGNORED, 3], [4, 5], [6, 7]], &device);
        model.unwrap().loss(Tokens::new(ids), labels);
    }
}
