//! Texts to classify: AG News from its files, and generated news texts.
//!
//! From text to tensors there are three steps, each of its own type. A [`Dataset`](burn_dist::data::Dataset)
//! of [`Text`]s is read; a [`Tokenizer`] cuts each into numbers of its vocabulary, giving an [`Encoded`]; a
//! [`TextBatcher`] lays those side by side in a [`TextBatch`], the shorter ones padded to the longest. A
//! [`Tokenized`] dataset joins the first two.
//!
//! ```
//! use burn::tensor::Device;
//! use burn_dist::data::{Batch, Loader};
//! use burn_dist_models::data::text::{Newswire, TextBatcher, Tokenized, Tokenizer};
//!
//! let train = Newswire::train(42, 64);
//! let tokenizer = Tokenizer::train(&train, 500)?.with_max_length(32)?;
//! let batcher = TextBatcher::new(&tokenizer, &Device::flex());
//! let train = Tokenized::new(train, tokenizer);
//! // On several ranks: `Loader::new(&world, ..)`, each its share.
//! let collate = move |items: Vec<_>, info: &_| batcher.collate(&items, info);
//! let loader = Loader::replicated(train, Batch::per_rank(16), collate)?.shuffled(42);
//!
//! for batch in loader.epoch(0)? {
//!     let [texts, tokens] = batch?.tokens.ids.dims();
//!     assert!(texts == 16 && tokens <= 32);
//! }
//! # Ok::<(), burn_dist::Error>(())
//! ```

mod ag_news;
mod batch;
mod encoded;
mod folder;
mod newswire;
mod special;
mod tokenized;
mod tokenizer;
mod training;
mod words;

pub use ag_news::AgNews;
pub use batch::{TextBatch, TextBatcher};
pub use encoded::Encoded;
pub use newswire::Newswire;
pub use tokenized::Tokenized;
pub use tokenizer::Tokenizer;

/// A piece of news and its class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Text {
    /// The headline.
    pub title: String,
    /// What follows it.
    pub description: String,
    /// The class.
    pub label: u16,
}
