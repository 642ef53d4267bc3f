//! A dataset of texts that are tokenized when they are fetched.

use burn_dist::Result;
use burn_dist::data::Dataset;

use super::{Encoded, Text, Tokenizer};

/// The texts of a dataset, tokenized when they are fetched.
///
/// Nothing is cached: a loader fetches ahead on a thread of its own, and a text of 50 words takes some 50 µs.
///
/// # Example
///
/// ```
/// use burn_dist::data::Dataset;
/// use burn_dist_models::data::text::{Newswire, Tokenized, Tokenizer};
///
/// let texts = Newswire::train(42, 40);
/// let tokenizer = Tokenizer::train(&texts, 400)?;
/// let tokenized = Tokenized::new(texts, tokenizer);
/// assert_eq!(tokenized.len(), 40);
/// assert_eq!(tokenized.get(3)?.label, 3);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tokenized<D> {
    texts: D,
    tokenizer: Tokenizer,
}

impl<D: Dataset<Item = Text>> Tokenized<D> {
    /// `texts` through `tokenizer`.
    pub fn new(texts: D, tokenizer: Tokenizer) -> Self {
        Self { texts, tokenizer }
    }
}

impl<D: Dataset<Item = Text>> Dataset for Tokenized<D> {
    type Item = Encoded;

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn get(&self, index: usize) -> Result<Encoded> {
        self.tokenizer.encode(&self.texts.get(index)?)
    }
}
