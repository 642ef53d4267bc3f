//! A tokenizer's files in the Hugging Face layout: reading and writing them.

use burn_dist::{Error, Result};
use serde::Deserialize;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use tokenizers::normalizers::BertNormalizer;

use super::Tokenizer;
use super::tokenizer::FILE;

/// The file of the pieces, one a line, and the file of the settings that go with it.
const PIECES: &str = "vocab.txt";
const SETTINGS: &str = "tokenizer_config.json";

/// The settings in `tokenizer_config.json` that `vocab.txt` lacks.
#[derive(Deserialize)]
struct Settings {
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    #[serde(default = "yes")]
    tokenize_chinese_chars: bool,
}

fn yes() -> bool {
    true
}

impl Tokenizer {
    /// The tokenizer in a model's folder: `tokenizer.json`, or else `vocab.txt` with the settings of
    /// `tokenizer_config.json`, if there are any.
    ///
    /// # Errors
    ///
    /// [`Error::File`] names the folder in which there is neither, or the file that cannot be read, is no
    /// tokenizer, or lacks one of BERT's special tokens.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(folder, None)
    }

    /// As [`open`](Self::open), with the case of a `vocab.txt` given by `lower_case`.
    ///
    /// Where neither this nor `tokenizer_config.json` gives it, the pieces decide: if any of them but the
    /// special tokens has a capital letter, texts keep theirs. A line in the log names the choice.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`Error::Config`] if `lower_case` is given for a `tokenizer.json`, which
    /// has its own setting.
    pub fn open_as(folder: impl AsRef<Path>, lower_case: Option<bool>) -> Result<Self> {
        let folder = folder.as_ref();
        let whole = folder.join(FILE);
        if let Some(json) = read(&whole)? {
            if let Some(lower_case) = lower_case {
                let expected = format!("nothing, for {} says it itself", whole.display());
                return Err(Error::config("--lower-case", expected, lower_case));
            }
            return Self::parsed(json.as_bytes(), &whole);
        }
        let path = folder.join(PIECES);
        let Some(pieces) = read(&path)? else {
            let expected = format!("a folder with {FILE} or {PIECES}");
            let found = if folder.is_dir() {
                "neither"
            } else {
                "no folder"
            };
            return Err(Error::file(folder, expected, found));
        };
        let settings = folder.join(SETTINGS);
        let text = read(&settings)?.unwrap_or_else(|| "{}".into());
        let Settings {
            do_lower_case,
            strip_accents,
            tokenize_chinese_chars,
        } = serde_json::from_str(&text)
            .map_err(|cause| Error::file(&settings, "a tokenizer's settings", cause))?;
        let do_lower_case = lower_case.or(do_lower_case).unwrap_or_else(|| {
            let cased = pieces.lines().find(|piece| is_cased(piece));
            match cased {
                Some(piece) => log::info!(
                    "{} is read as cased, for it has {:?}: texts keep their capital letters \
                     (--lower-case says otherwise)",
                    path.display(),
                    piece.chars().take(40).collect::<String>()
                ),
                None => log::info!(
                    "{} is read as one of lower case, for no piece has a capital letter",
                    path.display()
                ),
            }
            cased.is_none()
        });
        let normalizer =
            BertNormalizer::new(true, tokenize_chinese_chars, strip_accents, do_lower_case);
        Self::assembled(&pieces, normalizer, &path)
    }

    /// Writes `tokenizer.json` and `vocab.txt` to a folder, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::File`] for what cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder)
            .map_err(|cause| Error::file(folder, "a folder that can be made", cause))?;
        let pieces = self.pieces().join("\n") + "\n";
        for (name, text) in [(PIECES, pieces), (FILE, self.to_json()?)] {
            let path = folder.join(name);
            fs::write(&path, text)
                .map_err(|cause| Error::file(&path, "a file that can be written", cause))?;
        }
        Ok(())
    }
}

/// Whether a piece, which is no special token, has a capital letter.
fn is_cased(piece: &str) -> bool {
    let is_special = piece.starts_with('[') && piece.ends_with(']');
    !is_special && piece.chars().any(char::is_uppercase)
}

/// A text file, or `None` if it is not there.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(cause) => Err(Error::file(path, "a text file", cause)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Newswire, Text};
    use super::*;
    use burn_dist::data::Dataset;
    use tempfile::TempDir;

    /// The folder of a small cased vocabulary.
    fn folder(pieces: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(PIECES), pieces).unwrap();
        folder
    }

    const SMALL: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nBank\nbank\n##s\ncafé\ncafe\n";

    fn error(folder: &Path) -> String {
        let message = Tokenizer::open(folder).unwrap_err().to_string();
        message.replace(&folder.display().to_string(), "DIR")
    }

    fn ids(tokenizer: &Tokenizer, title: &str, description: &str) -> Vec<u32> {
        let text = Text {
            title: title.into(),
            description: description.into(),
            label: 0,
        };
        tokenizer.encode(&text).unwrap().ids
    }

    #[test]
    fn a_vocabulary_with_capital_letters_is_cased_by_default() {
        let cased = folder(SMALL);
        let open = |lower_case| Tokenizer::open_as(cased.path(), lower_case).unwrap();
        assert_eq!(ids(&open(None), "Bank", "bank"), [2, 5, 3, 6, 3]);
        assert_eq!(ids(&open(Some(true)), "Bank", "bank"), [2, 6, 3, 6, 3]);
        // The settings file has precedence over the pieces, and the argument over both.
        let settings = cased.path().join(SETTINGS);
        fs::write(&settings, r#"{"do_lower_case": true}"#).unwrap();
        assert_eq!(ids(&open(None), "Bank", "bank"), [2, 6, 3, 6, 3]);
        assert_eq!(ids(&open(Some(false)), "Bank", "bank"), [2, 5, 3, 6, 3]);
        fs::write(&settings, "{}").unwrap();
        assert_eq!(ids(&open(None), "Bank", "bank"), [2, 5, 3, 6, 3]);
        // Only the special tokens have capital letters here.
        let lower = folder("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nbank\n");
        let lower = Tokenizer::open(lower.path()).unwrap();
        assert_eq!(ids(&lower, "Bank", "bank"), [2, 5, 3, 5, 3]);
    }

    #[test]
    fn tokenizer_config_json_decides_on_case() {
        let folder = folder(SMALL);
        let settings = folder.path().join(SETTINGS);
        fs::write(
            &settings,
            r#"{"do_lower_case": false, "model_max_length": 512}"#,
        )
        .unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!(ids(&tokenizer, "Bank", "café"), [2, 5, 3, 8, 3]);
        fs::write(&settings, "{").unwrap();
        let expected = "DIR/tokenizer_config.json: expected a tokenizer's settings, found ";
        assert!(error(folder.path()).starts_with(expected));
    }

    #[test]
    fn a_saved_tokenizer_loads_from_either_file() {
        let saved = Tokenizer::train(&Newswire::train(42, 500), 400).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        saved.save(&folder).unwrap();
        let text = Newswire::test(1, 1).get(0).unwrap();
        let whole = Tokenizer::open(&folder).unwrap();
        fs::remove_file(folder.join(FILE)).unwrap();
        let from_pieces = Tokenizer::open(&folder).unwrap();
        for read in [whole, from_pieces] {
            assert_eq!(read.encode(&text).unwrap(), saved.encode(&text).unwrap());
            assert_eq!(read.to_json().unwrap(), saved.to_json().unwrap());
        }
    }

    #[test]
    fn an_invalid_tokenizer_file_is_an_error_that_names_it() {
        let folder = folder("[PAD]\n[UNK]\n[CLS]\nbank\n");
        assert_eq!(
            error(folder.path()),
            "DIR/vocab.txt: expected BERT's special tokens, found no [SEP]"
        );
        fs::write(folder.path().join(PIECES), format!("{SMALL}bank\n")).unwrap();
        assert_eq!(
            error(folder.path()),
            "DIR/vocab.txt: expected a word piece on each line, and none twice, \
             found 10 different ones on 11 lines"
        );
        fs::write(folder.path().join(PIECES), b"caf\xe9").unwrap();
        let expected = "DIR/vocab.txt: expected a text file, found ";
        assert!(error(folder.path()).starts_with(expected));
        fs::write(folder.path().join(FILE), "{\"model\": 3}").unwrap();
        let expected = "DIR/tokenizer.json: expected a tokenizer in JSON, found ";
        assert!(error(folder.path()).starts_with(expected));
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let expected = "expected a folder with tokenizer.json or vocab.txt, found";
        assert_eq!(error(folder.path()), format!("DIR: {expected} neither"));
        let nowhere = folder.path().join("nowhere");
        assert_eq!(error(&nowhere), format!("DIR: {expected} no folder"));
    }
}
