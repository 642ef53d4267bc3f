//! BERT's tokenizer: a text becomes the numbers of its word pieces.

use burn_dist::data::Dataset;
use burn_dist::{Error, Result};
use std::path::Path;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, TruncationParams};

use super::special::{FIRST, PAD, SEPARATOR, SPECIAL, UNKNOWN};
use super::{Encoded, Text, training};

/// The file that holds all of a tokenizer.
pub(super) const FILE: &str = "tokenizer.json";

/// The longest text that a published BERT can read.
const MAX_TOKENS: usize = 512;
/// `[CLS]`, two `[SEP]`, and a piece of title and description each.
const MIN_TOKENS: usize = 5;

/// A vocabulary of word pieces, and how a text is cut into them.
///
/// A text becomes `[CLS] title [SEP] description [SEP]` with two token types, as pairs of sentences do in BERT's
/// pretraining. A word that the vocabulary has no pieces for is `[UNK]`. A text that is too long is truncated at
/// the end of its longer part.
///
/// # Example
///
/// ```
/// use burn_dist_models::data::text::{Newswire, Text, Tokenizer};
///
/// let tokenizer = Tokenizer::train(&Newswire::train(42, 500), 1000)?.with_max_length(16)?;
/// let text = Text {
///     title: "The champion wins".into(),
///     description: "The champion wins the derby".into(),
///     label: 1,
/// };
/// let encoded = tokenizer.encode(&text)?;
/// // [CLS], three words, [SEP], five words, [SEP].
/// assert_eq!(encoded.ids.len(), 11);
/// assert_eq!(encoded.ids[1..4], encoded.ids[5..8]);
/// assert_eq!(encoded.types[3..6], [0, 0, 1]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// Source: Wu et al., *Google's Neural Machine Translation System*, 2016, <https://arxiv.org/abs/1609.08144>.
/// Hugging Face: `BertTokenizerFast`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pad: u32,
}

impl Tokenizer {
    /// A vocabulary of at most `size` word pieces from the texts themselves, in lower case and without accents.
    ///
    /// The same texts give the same vocabulary, in whichever process. 10 000 texts take a few seconds.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if `size` has no room for every character of the texts; what the dataset returns.
    pub fn train(texts: &impl Dataset<Item = Text>, size: usize) -> Result<Self> {
        let normalizer = BertNormalizer::default();
        let pieces = training::vocabulary(texts, &normalizer, size)?;
        Self::assembled(
            &pieces.join("\n"),
            normalizer,
            Path::new("the trained vocabulary"),
        )
    }

    /// The tokenizer that [`to_json`](Self::to_json) wrote, here or on another rank.
    ///
    /// # Errors
    ///
    /// [`Error::File`] as for a file `tokenizer.json`.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::parsed(json, Path::new(FILE))
    }

    /// The text of a `tokenizer.json` for this tokenizer; the maximum length of texts is not part of it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        let mut plain = self.inner.clone();
        let json = plain.with_truncation(None).and_then(|t| t.to_string(false));
        json.map_err(|cause| unusable("a tokenizer that JSON can hold", &cause))
    }

    /// The same, with texts truncated to `tokens` tokens, the special ones included (by default 512).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if `tokens` is less than 5, which leaves no room for a text.
    pub fn with_max_length(mut self, tokens: usize) -> Result<Self> {
        if tokens < MIN_TOKENS {
            return Err(Error::config(
                "length of texts",
                format!("at least {MIN_TOKENS} tokens"),
                tokens,
            ));
        }
        let truncation = TruncationParams {
            max_length: tokens,
            ..TruncationParams::default()
        };
        self.inner
            .with_truncation(Some(truncation))
            .map_err(|cause| unusable("a tokenizer that can cut texts off", &cause))?;
        Ok(self)
    }

    /// The number of rows that a table of words needs: the highest number of a token plus one.
    #[must_use]
    pub fn size(&self) -> usize {
        let ids = self.inner.get_vocab(true).into_values();
        ids.max().map_or(0, |id| id as usize + 1)
    }

    /// All pieces, in the order of their numbers.
    pub(super) fn pieces(&self) -> Vec<String> {
        let mut pieces: Vec<_> = self.inner.get_vocab(true).into_iter().collect();
        pieces.sort_unstable_by_key(|(_, id)| *id);
        pieces.into_iter().map(|(piece, _)| piece).collect()
    }

    /// The number of the padding token.
    pub(super) fn pad(&self) -> u32 {
        self.pad
    }

    /// The tokens of a text; some 50 µs for 50 words.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the tokenizer's file was inconsistent.
    pub fn encode(&self, text: &Text) -> Result<Encoded> {
        let parts = (text.title.as_str(), text.description.as_str());
        let encoding = self
            .inner
            .encode_fast(parts, true)
            .map_err(|cause| unusable("one that can encode a text", &cause))?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().to_vec(),
            label: text.label,
        })
    }

    /// BERT's tokenizer over `pieces`, one a line, whose numbers are those of their lines.
    pub(super) fn assembled(pieces: &str, normalizer: BertNormalizer, path: &Path) -> Result<Self> {
        let cannot = |cause: tokenizers::Error| Error::file(path, "word pieces", cause);
        let ids = WordPiece::read_bytes(pieces.as_bytes()).map_err(cannot)?;
        let lines = pieces.lines().count();
        if ids.len() != lines {
            let found = format!("{} different ones on {lines} lines", ids.len());
            return Err(Error::file(
                path,
                "a word piece on each line, and none twice",
                found,
            ));
        }
        let special = |name: &str| match ids.get(name) {
            Some(id) => Ok((name.to_owned(), *id)),
            None => Err(lacks(path, name)),
        };
        let processing = BertProcessing::new(special(SEPARATOR)?, special(FIRST)?);
        let added = SPECIAL.into_iter().filter(|name| ids.contains_key(*name));
        let added: Vec<_> = added.map(|name| AddedToken::from(name, true)).collect();
        let model = WordPiece::builder().vocab(ids).build().map_err(cannot)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(normalizer)).map_err(cannot)?;
        inner
            .with_pre_tokenizer(Some(BertPreTokenizer))
            .with_post_processor(Some(processing))
            .with_decoder(Some(WordPieceDecoder::default()));
        inner.add_special_tokens(added).map_err(cannot)?;
        Self::checked(inner, path)
    }

    pub(super) fn parsed(json: &[u8], path: &Path) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|cause| Error::file(path, "a tokenizer in JSON", cause))?;
        Self::checked(inner, path)
    }

    /// A tokenizer that has the special tokens needed here.
    fn checked(mut inner: tokenizers::Tokenizer, path: &Path) -> Result<Self> {
        let id = |name: &str| inner.token_to_id(name).ok_or_else(|| lacks(path, name));
        let pad = id(PAD)?;
        for name in [UNKNOWN, FIRST, SEPARATOR] {
            id(name)?;
        }
        // A batch is padded as a whole; a file may ask for every text to be padded to one length.
        inner.with_padding(None);
        Self { inner, pad }.with_max_length(MAX_TOKENS)
    }
}

fn lacks(path: &Path, name: &str) -> Error {
    Error::file(path, "BERT's special tokens", format!("no {name}"))
}

fn unusable(expected: &str, cause: &tokenizers::Error) -> Error {
    Error::config("tokenizer", expected, cause)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Newswire;
    use super::*;

    fn trained(size: usize) -> Tokenizer {
        Tokenizer::train(&Newswire::train(42, 500), size).unwrap()
    }

    fn text(title: &str, description: &str) -> Text {
        let (title, description) = (title.into(), description.into());
        Text {
            title,
            description,
            label: 1,
        }
    }

    fn pieces(tokenizer: &Tokenizer, title: &str, description: &str) -> Vec<String> {
        let encoded = tokenizer.encode(&text(title, description)).unwrap();
        let piece = |id: &u32| tokenizer.inner.id_to_token(*id).unwrap();
        encoded.ids.iter().map(piece).collect()
    }

    const SMALL: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nBank\nbank\n##s\ncafé\ncafe\n";

    fn small() -> Tokenizer {
        Tokenizer::assembled(SMALL, BertNormalizer::default(), Path::new("small")).unwrap()
    }

    /// Hash maps are seeded anew for each of the trainings, and for each process that runs this test.
    #[test]
    fn training_a_vocabulary_is_deterministic() {
        let json = trained(600).to_json().unwrap();
        for _ in 0..3 {
            assert_eq!(trained(600).to_json().unwrap(), json);
        }
        let pieces = trained(600).pieces().join("\n");
        assert_eq!(pieces.lines().count(), 600);
        assert!(pieces.starts_with("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"));
        let sum = pieces.bytes().fold(0_u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        assert_eq!(sum, 2_340_327_663);
    }
    #[test]
    fn words_over_100_characters_are_left_out_of_training() {
        let text = |description: String| Text {
            title: "a bank beside a bank".into(),
            description,
            label: 0,
        };
        let train = |words: &str| {
            let texts = vec![text(words.into()), text("banks beside banks".into())];
            Tokenizer::train(&texts, 200).unwrap().pieces()
        };
        // Training on it would take time quadratic in its length: half a minute.
        let long = "xy".repeat(125_000);
        assert_eq!(train(&format!("rivers {long}")), train("rivers"));
        assert_ne!(
            train(&format!("rivers {}", "xy".repeat(50))),
            train("rivers")
        );
        let found = Tokenizer::train(&vec![text("one".into())], usize::MAX).unwrap_err();
        assert!(
            found.to_string().contains("at most 1048576 word pieces"),
            "{found}"
        );
    }

    #[test]
    fn truncation_shortens_the_longer_part() {
        let tokenizer = small();
        let tokenizer = tokenizer.with_max_length(8).unwrap();
        let cut = tokenizer
            .encode(&text("bank cafe", &"banks ".repeat(20)))
            .unwrap();
        assert_eq!(cut.ids, [2, 6, 9, 3, 6, 7, 6, 3]);
        assert_eq!(cut.types, [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(cut.label, 1);
        assert_eq!(
            tokenizer.with_max_length(4).unwrap_err().to_string(),
            "length of texts: expected at least 5 tokens, found 4"
        );
    }
    #[test]
    fn padding_and_truncation_of_a_file_are_ignored() {
        let tokenizer = trained(400);
        let mut json: serde_json::Value =
            serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
        assert!(json["truncation"].is_null() && json["padding"].is_null());
        json["padding"] = serde_json::json!({
            "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
        });
        json["truncation"] = serde_json::json!({
            "direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0
        });
        let read = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
        let text = Newswire::test(1, 1).get(0).unwrap();
        assert_eq!(
            read.encode(&text).unwrap(),
            tokenizer.encode(&text).unwrap()
        );
    }
    #[test]
    fn words_become_their_longest_pieces_or_unk() {
        let tokenizer = small();
        assert_eq!(tokenizer.size(), 10);
        assert_eq!(
            pieces(&tokenizer, "Banks bank", "CAFÉ loan"),
            [
                "[CLS]", "bank", "##s", "bank", "[SEP]", "cafe", "[UNK]", "[SEP]"
            ]
        );
        // A word of a trained vocabulary is unknown only if one of its characters is.
        let tokenizer = trained(300);
        assert!(!pieces(&tokenizer, "xylophone", "").contains(&"[UNK]".into()));
        assert_eq!(
            pieces(&tokenizer, "\u{416}", ""),
            ["[CLS]", "[UNK]", "[SEP]", "[SEP]"]
        );
    }

    #[test]
    fn a_vocabulary_smaller_than_the_alphabet_is_refused() {
        let error = Tokenizer::train(&Newswire::train(42, 500), 40).unwrap_err();
        let error = error.to_string();
        let expected = "size of the vocabulary: expected at least ";
        assert!(error.starts_with(expected), "{error}");
        assert!(error.ends_with("found 40"), "{error}");
    }
}
