//! Training of a vocabulary of word pieces.
//!
//! The pieces are found by byte-pair merging: beginning with single characters, the most frequent pair of
//! neighbours becomes one piece, until the vocabulary is full.
//!
//! Every run over the same texts must find the same vocabulary, or a resumed run would use its embeddings for
//! other pieces. The trainer numbers characters in the order of a hash map, which differs between processes,
//! and breaks ties by those numbers. So all characters are passed to it in sorted order as special tokens,
//! which makes the rest deterministic.

use burn_dist::data::Dataset;
use burn_dist::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, Trainer,
};

use super::Text;
use super::special::SPECIAL;

/// The most characters of a word. WordPiece encodes a longer one as unknown, and training on it takes time
/// quadratic in its length.
const MAX_WORD_LEN: usize = 100;
/// The most pieces of a vocabulary, far above published ones.
const MAX_PIECES: usize = 1 << 20;

/// How often a pair must occur to be merged.
const MIN_FREQUENCY: u64 = 2;

/// At most `size` pieces, the special tokens and every character of the texts among them, in their order.
pub(super) fn vocabulary(
    texts: &impl Dataset<Item = Text>,
    normalizer: &BertNormalizer,
    size: usize,
) -> Result<Vec<String>> {
    if size > MAX_PIECES {
        let expected = format!("at most {MAX_PIECES} word pieces");
        return Err(Error::config("size of the vocabulary", expected, size));
    }
    let words = words(texts, normalizer)?;
    let letters: BTreeSet<char> = words.keys().flat_map(|word| word.chars()).collect();
    let inside: BTreeSet<char> = words.keys().flat_map(|word| word.chars().skip(1)).collect();
    let first: Vec<String> = SPECIAL
        .into_iter()
        .map(String::from)
        .chain(letters.iter().map(char::to_string))
        .chain(inside.iter().map(|letter| format!("##{letter}")))
        .collect();
    if size < first.len() {
        return Err(Error::config(
            "size of the vocabulary",
            format!(
                "at least {}, the {} special tokens and the characters of the texts",
                first.len(),
                SPECIAL.len()
            ),
            size,
        ));
    }

    let mut trainer = WordPieceTrainer::builder()
        .show_progress(false)
        .vocab_size(size)
        .min_frequency(MIN_FREQUENCY)
        .special_tokens(
            first
                .into_iter()
                .map(|s| AddedToken::from(s, false))
                .collect(),
        )
        .build();
    // The trainer counts words itself, so each is repeated as often as it occurs.
    let again = |word: &str| {
        let count = words.get(word).copied().unwrap_or_default();
        Ok(vec![word.to_owned(); count])
    };
    let mut model = WordPiece::default();
    trainer
        .feed(words.keys(), again)
        .and_then(|()| trainer.train(&mut model))
        .map_err(failed)?;
    let mut pieces: Vec<_> = model.get_vocab().into_iter().collect();
    pieces.sort_unstable_by_key(|(_, id)| *id);
    Ok(pieces.into_iter().map(|(piece, _)| piece).collect())
}

/// The count of each word.
fn words(
    texts: &impl Dataset<Item = Text>,
    normalizer: &BertNormalizer,
) -> Result<BTreeMap<String, usize>> {
    let mut words = BTreeMap::new();
    for index in 0..texts.len() {
        let Text {
            title, description, ..
        } = texts.get(index)?;
        for part in [title, description] {
            let mut part = NormalizedString::from(part);
            normalizer.normalize(&mut part).map_err(failed)?;
            let mut split = PreTokenizedString::from(part);
            BertPreTokenizer.pre_tokenize(&mut split).map_err(failed)?;
            for (word, ..) in split.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
                if word.chars().nth(MAX_WORD_LEN).is_some() {
                    continue;
                }
                match words.get_mut(word) {
                    Some(count) => *count += 1,
                    None => drop(words.insert(word.to_owned(), 1)),
                }
            }
        }
    }
    Ok(words)
}

fn failed(error: tokenizers::Error) -> Error {
    Error::config("vocabulary", "texts that can be cut into words", error)
}
