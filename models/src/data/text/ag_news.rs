//! AG News from its CSV files.
//!
//! A row is a class, a title and a description, each in quotation marks; classes count from 1. The published texts
//! have a backslash in place of each line end, and some entities lack their ampersand (`#39;`). They are used as
//! they are, as in published results. All rows are checked when the files are opened, so that a damaged download
//! is found before a run begins.

use std::path::Path;
use std::sync::Arc;

use burn_dist::data::Dataset;
use burn_dist::{Error, Result};
use csv::{ByteRecord, ReaderBuilder};

use super::Text;
use crate::data::files;

/// The folder that the archive unpacks to.
const FOLDER: &str = "ag_news_csv";
const TRAIN: &str = "train.csv";
const TEST: &str = "test.csv";
const NAMES: &str = "classes.txt";
const CLASSES: [&str; 4] = ["World", "Sports", "Business", "Sci/Tech"];

/// The training or the test part of AG News: headlines and first sentences of 2004 and 2005, in four classes.
///
/// The official parts hold 120 000 and 7 600 texts, 29 MB and 2 MB; smaller files of the same layout work too,
/// and so do other classes, if `classes.txt` lists them. Cloning a part shares its texts.
///
/// # Example
///
/// ```
/// use burn_dist::data::Dataset;
/// use burn_dist_models::data::text::AgNews;
///
/// # let folder = tempfile::tempdir()?;
/// # let row = "\"2\",\"A late goal\",\"The guests won in the last minute.\"\n";
/// # std::fs::write(folder.path().join("train.csv"), row.repeat(2))?;
/// # std::fs::write(folder.path().join("test.csv"), row)?;
/// # let folder = folder.path();
/// let (train, test) = AgNews::open(folder)?;
/// let text = train.get(0)?;
/// println!("{} and {} texts; {}: {}", train.len(), test.len(), train.classes()[1], text.title);
/// # assert_eq!((train.len(), test.len(), text.label), (2, 1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: X. Zhang, J. Zhao & Y. LeCun, *Character-level Convolutional Networks for Text Classification*, 2015,
/// <https://arxiv.org/abs/1509.01626>, of A. Gulli's corpus. Hugging Face: `ag_news`.
#[derive(Clone, Hash)]
pub struct AgNews {
    texts: Arc<[Text]>,
    classes: Arc<[String]>,
}

impl AgNews {
    /// Reads the training and the test part from `folder`: `ag_news_csv`, or a folder that it lies in.
    ///
    /// # Errors
    ///
    /// [`Error::File`] names the folder or file that is missing or cannot be read, and the line of a row that is
    /// not a class, a title and a description in UTF-8.
    pub fn open(folder: impl AsRef<Path>) -> Result<(Self, Self)> {
        let what = format!("with {TRAIN} and {TEST}");
        let folder = files::folder(folder.as_ref(), FOLDER, &what)?;
        let classes: Arc<[String]> = class_names(&folder.join(NAMES))?.into();
        let part = |name| -> Result<Self> {
            Ok(Self {
                texts: read_rows(&folder.join(name), classes.len())?.into(),
                classes: classes.clone(),
            })
        };
        Ok((part(TRAIN)?, part(TEST)?))
    }

    /// The classes' names, by label.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }
}

impl Dataset for AgNews {
    type Item = Text;

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn get(&self, index: usize) -> Result<Text> {
        let text = self.texts.get(index).cloned();
        text.ok_or_else(|| {
            let expected = format!("less than the {} texts there are", self.len());
            Error::config("text index", expected, index)
        })
    }
}

/// Shows two numbers instead of megabytes of text.
impl std::fmt::Debug for AgNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgNews")
            .field("texts", &self.len())
            .field("classes", &self.classes.len())
            .finish()
    }
}

/// A file's bytes, unless it is missing or empty.
fn read(path: &Path) -> Result<Vec<u8>> {
    let expected = "a CSV file of AG News";
    let bytes = files::read(path, expected)?;
    if bytes.is_empty() {
        Err(Error::file(path, expected, "an empty file"))
    } else {
        Ok(bytes)
    }
}

/// A file's rows, checked.
fn read_rows(path: &Path, classes: usize) -> Result<Vec<Text>> {
    let bytes = read(path)?;
    // The reader accepts rows of any length, so that the error below can say what is wrong with one.
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes.as_slice());
    let (mut texts, mut record, mut line) = (Vec::new(), ByteRecord::new(), 1);
    let wrong = |line: u64, expected: String, found: String| Error::File {
        path: format!("{}, line {line}", path.display()),
        expected,
        found,
    };
    while reader
        .read_byte_record(&mut record)
        .map_err(|cause| wrong(line, "a row of CSV".into(), cause.to_string()))?
    {
        line = record.position().map_or(line, csv::Position::line);
        let text = row(&record, classes).map_err(|(what, found)| wrong(line, what, found))?;
        texts.push(text);
    }
    // The reader takes the file's end for a closing quotation mark, and an incomplete download ends inside one.
    if bytes.iter().filter(|&&byte| byte == b'"').count() % 2 == 1 {
        let expected = "a quotation mark that ends what one began".into();
        return Err(wrong(line, expected, "the end of the file".into()));
    }
    Ok(texts)
}

/// A row's text, or what was expected and found instead.
fn row(record: &ByteRecord, classes: usize) -> std::result::Result<Text, (String, String)> {
    if record.len() != 3 {
        let broken = record.iter().any(|field| field.contains(&b'\n'));
        let hint = if broken {
            ", one of several lines: is a quotation mark missing?"
        } else {
            ""
        };
        let expected = "3 columns (class, title, description)".into();
        return Err((expected, format!("{}{hint}", record.len())));
    }
    let field = |column: usize, name: &str| {
        let bytes = record.get(column).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|cause| {
            let bad = bytes.get(cause.valid_up_to()).copied().unwrap_or_default();
            let place = cause.valid_up_to() + 1;
            let found = format!("the byte {bad:#04x} as the {place}. of its {name}");
            ("a row in UTF-8".to_string(), found)
        })
    };
    let class = field(0, "class")?;
    let number = class.trim().parse().ok();
    let label = number
        .filter(|number| (1..=classes).contains(number))
        .and_then(|number: usize| u8::try_from(number - 1).ok())
        .ok_or_else(|| {
            let expected = format!("a class from 1 to {classes} in the first column");
            (expected, format!("{class:?}"))
        })?;
    Ok(Text {
        title: field(1, "title")?.into(),
        description: field(2, "description")?.into(),
        label: label.into(),
    })
}

/// The names in the archive's list, or the usual ones if there is no list.
fn class_names(path: &Path) -> Result<Vec<String>> {
    let names = files::names(path, &CLASSES)?;
    match names.len() {
        1..=256 => Ok(names),
        count => {
            let expected = "1 to 256 class names, one a line";
            Err(Error::file(path, expected, count))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn folder(train: impl AsRef<[u8]>) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(TRAIN), train).unwrap();
        fs::write(folder.path().join(TEST), "\"1\",\"a\",\"b\"\n").unwrap();
        folder
    }

    fn error(folder: &Path) -> String {
        let message = AgNews::open(folder).unwrap_err().to_string();
        message.replace(&folder.display().to_string(), "DIR")
    }

    #[test]
    fn rows_are_read_in_file_order_and_unchanged() {
        let rows = "\"4\",\"He said \"\"no\"\"\",\"one\\two, #39;s &amp; three\"\r\n\
                    1,plain,\n\
                    \"2\",\"over\ntwo lines\",\"x\"\n";
        let folder = folder(rows);
        let (train, test) = AgNews::open(folder.path()).unwrap();
        assert_eq!((train.len(), test.len()), (3, 1));
        let text = |title: &str, description: &str, label| Text {
            title: title.into(),
            description: description.into(),
            label,
        };
        let first = text("He said \"no\"", "one\\two, #39;s &amp; three", 3);
        assert_eq!(train.get(0).unwrap(), first);
        assert_eq!(train.get(1).unwrap(), text("plain", "", 0));
        assert_eq!(train.get(2).unwrap(), text("over\ntwo lines", "x", 1));
        assert_eq!(train.classes(), CLASSES);
        assert_eq!(
            train.get(3).unwrap_err().to_string(),
            "text index: expected less than the 3 texts there are, found 3"
        );
    }

    #[test]
    fn the_parent_folder_is_accepted() {
        let (parent, folder) = (tempfile::tempdir().unwrap(), folder("1,a,b"));
        fs::rename(folder.path(), parent.path().join(FOLDER)).unwrap();
        assert_eq!(AgNews::open(parent.path()).unwrap().0.len(), 1);
    }

    #[test]
    fn classes_txt_replaces_the_usual_classes() {
        let folder = folder("1,a,b\n2,c,d\n");
        let list = folder.path().join(NAMES);
        fs::write(&list, "ham\nspam\n\n").unwrap();
        assert_eq!(
            AgNews::open(folder.path()).unwrap().1.classes(),
            ["ham", "spam"]
        );
        fs::write(&list, "ham").unwrap();
        assert_eq!(
            error(folder.path()),
            "DIR/train.csv, line 2: expected a class from 1 to 1 in the first column, found \"2\""
        );
        fs::write(&list, "\n").unwrap();
        assert_eq!(
            error(folder.path()),
            "DIR/classes.txt: expected 1 to 256 class names, one a line, found 0"
        );
    }

    #[test]
    fn a_missing_folder_or_file_is_named() {
        let folder = folder("1,a,b");
        let expected = "expected the folder ag_news_csv with train.csv and test.csv, or its parent";
        assert_eq!(
            error(&folder.path().join("typo")),
            format!("DIR: {expected}, found nothing")
        );
        assert_eq!(
            error(&folder.path().join(TEST)),
            format!("DIR: {expected}, found a file")
        );
        fs::write(folder.path().join(TEST), "").unwrap();
        let expected = "DIR/test.csv: expected a CSV file of AG News";
        assert_eq!(
            error(folder.path()),
            format!("{expected}, found an empty file")
        );
        fs::remove_file(folder.path().join(TEST)).unwrap();
        assert_eq!(
            error(folder.path()),
            format!("{expected}, found no such file")
        );
    }

    /// The row that is wrong is the second; what comes before it is of two lines.
    #[test]
    fn a_malformed_row_is_an_error_with_its_line() {
        let class = "a class from 1 to 4 in the first column";
        let columns = "3 columns (class, title, description)";
        let several = ", one of several lines: is a quotation mark missing?";
        let cases: [(&[u8], &str, &str); 9] = [
            (b"3,only a title", columns, "2"),
            (b"3,a,b,c", columns, "4"),
            (
                b"\"3\",\"a\",\"b\n\"2\",\"c\",\"d\"",
                columns,
                &format!("5{several}"),
            ),
            (b"0,a,b", class, "\"0\""),
            (b"5,a,b", class, "\"5\""),
            (b"World,a,b", class, "\"World\""),
            (b",a,b", class, "\"\""),
            (
                b"3,caf\xe9,b",
                "a row in UTF-8",
                "the byte 0xe9 as the 4. of its title",
            ),
            (
                b"\"3\",\"a\",\"cut of",
                "a quotation mark that ends what one began",
                "the end of the file",
            ),
        ];
        for (row, expected, found) in cases {
            let rows = [b"\"1\",\"a\",\"b\nc\"\n".as_slice(), row].concat();
            assert_eq!(
                error(folder(rows).path()),
                format!("DIR/train.csv, line 3: expected {expected}, found {found}")
            );
        }
    }
}
