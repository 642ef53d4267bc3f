//! What a forward and a backward pass of a batch take.

use crate::data::ImageBatch;
use crate::data::text::TextBatch;
use crate::{BertConfig, VitConfig};

/// A backward pass takes twice the operations of the forward.
const WITH_BACKWARD: f64 = 3.0;

/// The work of one forward and backward pass on one rank, padding not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Samples.
    pub samples: usize,
    /// Tokens, of texts.
    pub tokens: Option<usize>,
    /// Operations of the model, forward and backward; those of a recomputation are not the model's.
    pub flops: f64,
}

impl Work {
    /// That of a batch of images.
    pub fn of_images(config: &VitConfig, batch: &ImageBatch) -> Self {
        Self {
            samples: batch.count,
            tokens: None,
            flops: WITH_BACKWARD * config.forward_flops() * batch.count as f64,
        }
    }

    /// That of a batch of texts, as long as the longest one.
    pub fn of_texts(config: &BertConfig, batch: &TextBatch, classes: usize) -> Self {
        let [_, length] = batch.tokens.ids.dims();
        Self {
            samples: batch.count,
            tokens: Some(batch.token_count),
            flops: WITH_BACKWARD * config.forward_flops(length, classes) * batch.count as f64,
        }
    }
}
