//! Texts as a model reads them: numbers of a vocabulary.

use burn_dist::Result;
use burn_dist::data::Dataset;

use super::{Text, Tokenizer};

/// A text cut into tokens, between `[CLS]` and `[SEP]`, and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens' numbers.
    pub ids: Vec<u32>,
    /// 0 for tokens of the title, 1 for those of the description.
    pub types: Vec<u32>,
    /// The class.
    pub label: u8,
}

/// The texts of a dataset, cut into tokens as they are fetched.
///
/// Nothing is kept: a loader fetches ahead on a thread of its own, and cutting up a text of 50 words costs some
/// 50 µs.
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
