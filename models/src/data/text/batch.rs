//! Batches of texts: encoded texts of unequal lengths become tensors, padded to the longest.
//!
//! A batch is padded to its longest text and not to the maximum length, since most texts are far shorter. So the
//! batches of ranks differ in length. Results do not depend on it: padding is masked, no token attends to it,
//! and a loss is summed over texts.

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::data::BatchInfo;

use super::{Encoded, Tokenizer};
use crate::bert::Tokens;
use crate::data::Classified;

/// A batch of texts as tensors, on the batcher's device.
#[derive(Debug, Clone)]
pub struct TextBatch {
    /// Numbers, types and padding, each `[batch, tokens]`; title and description are of types 0 and 1.
    pub tokens: Tokens,
    /// Classes, `[batch]`.
    pub labels: Tensor<1, Int>,
    /// The weight of each text's loss, `[batch]`: 1, or 0 for a text that only fills the batch.
    pub weights: Tensor<1>,
    /// The number of texts of weight 1.
    pub count: usize,
    /// The number of tokens in these texts, padding not counted.
    pub token_count: usize,
    /// The number of texts of all ranks in this step: what a summed loss is divided by.
    pub global_count: usize,
}

impl Classified for TextBatch {
    fn labels(&self) -> Tensor<1, Int> {
        self.labels.clone()
    }

    fn weights(&self) -> Tensor<1> {
        self.weights.clone()
    }

    fn count(&self) -> usize {
        self.count
    }

    fn inner(self) -> Self {
        Self {
            tokens: Tokens {
                ids: self.tokens.ids.inner(),
                types: self.tokens.types.map(Tensor::inner),
                padding: self.tokens.padding.map(Tensor::inner),
            },
            labels: self.labels.inner(),
            weights: self.weights.inner(),
            ..self
        }
    }
}

/// Makes batches: pads each text to the longest of its batch.
///
/// # Example
///
/// ```
/// use burn::tensor::Device;
/// use burn_dist::data::BatchInfo;
/// use burn_dist_models::data::text::{Encoded, Newswire, TextBatcher, Tokenizer};
///
/// let tokenizer = Tokenizer::train(&Newswire::train(42, 40), 400)?;
/// let batcher = TextBatcher::new(&tokenizer, &Device::flex());
/// let text = |ids: &[u32]| Encoded { ids: ids.into(), types: vec![0; ids.len()], label: 1 };
/// let info = BatchInfo {
///     epoch: 0,
///     step: 0,
///     indices: vec![0, 1],
///     weights: vec![1.0; 2],
///     count: 2,
///     global_count: 2,
/// };
/// let batch = batcher.collate(&[text(&[2, 17, 3]), text(&[2, 17, 18, 19, 3])], &info);
/// assert_eq!(batch.tokens.ids.dims(), [2, 5]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// Hugging Face: `DataCollatorWithPadding`.
#[derive(Debug, Clone)]
pub struct TextBatcher {
    device: Device,
    /// The number of the vocabulary's `[PAD]`.
    pad: u32,
}

impl TextBatcher {
    /// A batcher for texts that `tokenizer` has encoded.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, device: &Device) -> Self {
        Self {
            device: device.clone(),
            pad: tokenizer.pad(),
        }
    }

    /// The batch of `items`, to be passed to [`Loader::new`](burn_dist::data::Loader::new).
    #[must_use]
    pub fn collate(&self, items: &[Encoded], info: &BatchInfo) -> TextBatch {
        let longest = items.iter().map(|text| text.ids.len()).max();
        let shape = [items.len(), longest.unwrap_or_default()];
        let rows = |of: fn(&Encoded) -> &[u32], fill: u32| {
            let padded = |text| of(text).iter().copied().chain(std::iter::repeat(fill));
            let row = |text| padded(text).take(shape[1]).map(i64::from);
            let values: Vec<i64> = items.iter().flat_map(row).collect();
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), &self.device)
        };
        let padding: Vec<bool> = items
            .iter()
            .flat_map(|text| (0..shape[1]).map(|at| at >= text.ids.len()))
            .collect();
        let padding = TensorData::new(padding, shape);
        let padding = Tensor::from_data(padding, &self.device);
        let labels: Vec<i64> = items.iter().map(|text| text.label.into()).collect();
        let counted = items.iter().zip(&info.weights);
        let counted = counted.filter(|(_, weight)| **weight != 0.0);
        let weights = TensorData::new(info.weights.clone(), [shape[0]]);
        TextBatch {
            tokens: Tokens::new(rows(|text| &text.ids, self.pad))
                .with_types(rows(|text| &text.types, 0))
                .with_padding(padding),
            labels: Tensor::from_data(TensorData::new(labels, [shape[0]]), &self.device),
            weights: Tensor::from_data(weights, &self.device),
            count: info.count,
            token_count: counted.map(|(text, _)| text.ids.len()).sum(),
            global_count: info.global_count,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn_dist::data::{Batch, DistributedSampler, Loader};

    use super::*;
    use crate::BertConfig;

    /// The batches of one epoch of three texts, 2, 4 and 3 tokens long, on one of two ranks.
    fn batches(rank: usize) -> Vec<TextBatch> {
        let text = |ids: &[u32], label| Encoded {
            ids: ids.into(),
            types: vec![1; ids.len()],
            label,
        };
        let texts = vec![
            text(&[2, 3], 0),
            text(&[2, 8, 9, 3], 1),
            text(&[2, 7, 3], 2),
        ];
        let sampler = DistributedSampler::new(3, Batch::per_rank(1), (rank, 2)).unwrap();
        let batcher = TextBatcher {
            device: Device::flex(),
            pad: 5,
        };
        let loader = Loader::with_sampler(texts, sampler, move |items, info| {
            batcher.collate(&items, info)
        });
        let batches = loader.unwrap().epoch(0).unwrap();
        batches.map(Result::unwrap).collect()
    }

    fn ints(tensor: Tensor<2, Int>) -> Vec<i64> {
        tensor.into_data().convert::<i64>().try_into_vec().unwrap()
    }

    #[test]
    fn a_batch_is_as_long_as_its_longest_text() {
        let text = |len| Encoded {
            ids: vec![9; len],
            types: vec![1; len],
            label: 3,
        };
        let info = BatchInfo {
            epoch: 0,
            step: 0,
            indices: vec![0, 1],
            weights: vec![1.0; 2],
            count: 2,
            global_count: 2,
        };
        let batcher = TextBatcher {
            device: Device::flex(),
            pad: 5,
        };
        let batch = batcher.collate(&[text(1), text(3)], &info);
        assert_eq!(ints(batch.tokens.ids), [9, 5, 5, 9, 9, 9]);
        assert_eq!(ints(batch.tokens.types.unwrap()), [1, 0, 0, 1, 1, 1]);
        let padding: Vec<bool> = batch
            .tokens
            .padding
            .unwrap()
            .into_data()
            .try_into_vec()
            .unwrap();
        assert_eq!(padding, [false, true, true, false, false, false]);
        assert_eq!(batch.labels.dims(), [2]);
    }

    #[test]
    fn each_rank_pads_its_own_batch_and_fillers_have_weight_0() {
        let dims = |rank| -> Vec<_> { batches(rank).iter().map(|b| b.tokens.ids.dims()).collect() };
        assert_eq!(dims(0), [[1, 2], [1, 3]]);
        // The third text is rank 0's, so that rank 1 gets the first as a filler.
        assert_eq!(dims(1), [[1, 4], [1, 2]]);
        let filler = batches(1).remove(1);
        assert_eq!(filler.weights.into_scalar::<f32>(), 0.0);
        assert_eq!((filler.count, filler.global_count), (0, 1));
    }

    #[test]
    fn outputs_of_a_text_do_not_depend_on_its_batch() {
        let device = Device::flex();
        let config = BertConfig::tiny().with_vocab(20).with_init_std(0.2);
        let model = config.init_classifier(4, &device).unwrap();
        let batcher = TextBatcher { device, pad: 0 };
        let text = |ids: &[u32]| Encoded {
            ids: ids.into(),
            types: vec![1; ids.len()],
            label: 0,
        };
        let (short, long) = (text(&[2, 17, 3]), text(&[2, 8, 9, 10, 11, 12, 3]));
        let batch = |texts: &[Encoded]| {
            let info = BatchInfo {
                epoch: 0,
                step: 0,
                indices: (0..texts.len()).collect(),
                weights: vec![1.0; texts.len()],
                count: texts.len(),
                global_count: texts.len(),
            };
            batcher.collate(texts, &info).tokens
        };
        let of_first = |tokens| model.forward(tokens).narrow(0, 0, 1);
        let alone = of_first(batch(std::slice::from_ref(&short)));
        let off = |logits: Tensor<2>| -> f32 {
            let off = logits - alone.clone();
            off.abs().max().into_scalar()
        };
        let beside = batch(&[short, long]);
        assert!(off(of_first(beside.clone())) < 1e-5);
        // Without the mask the outputs differ.
        let unmarked = Tokens {
            padding: None,
            ..beside
        };
        assert!(off(of_first(unmarked)) > 1e-3);
    }
}
