//! A text as a model reads it: numbers of a vocabulary.

/// A text cut into tokens, between `[CLS]` and `[SEP]`, and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens' numbers.
    pub ids: Vec<u32>,
    /// 0 for tokens of the title, 1 for those of the description.
    pub types: Vec<u32>,
    /// The class.
    pub label: u16,
}
