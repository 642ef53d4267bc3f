//! BERT's special tokens.

pub(super) const PAD: &str = "[PAD]";
pub(super) const UNKNOWN: &str = "[UNK]";
pub(super) const FIRST: &str = "[CLS]";
pub(super) const SEPARATOR: &str = "[SEP]";

/// All of them, in the order that Hugging Face's trainer numbers them.
pub(super) const SPECIAL: [&str; 5] = [PAD, UNKNOWN, FIRST, SEPARATOR, "[MASK]"];
