//! CIFAR-10 from the files of its official binary archive.
//!
//! The records stay in memory in the layout of the files, one label and three colour planes each, so that opening
//! needs no second copy, and a sample is a slice. All records are checked when the files are opened, so that a
//! damaged download is found before a run begins.

use std::path::Path;

use burn_dist::data::Dataset;
use burn_dist::{Error, Result};

use super::{Image, PIXELS, files};

/// The folder that the archive unpacks to.
const FOLDER: &str = "cifar-10-batches-bin";
const TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
const TEST: &str = "test_batch.bin";
const NAMES: &str = "batches.meta.txt";
const CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];
/// One byte of label, then the planes.
const RECORD: usize = 1 + PIXELS;

/// The training or the test part of CIFAR-10: 32x32 colour photographs of ten classes.
///
/// The official parts hold 50 000 and 10 000 images, 154 MB and 31 MB; smaller files of the same layout work
/// too. Share a part between ranks that are threads by an [`Arc`](std::sync::Arc).
///
/// # Example
///
/// ```
/// use burn_dist::data::Dataset;
/// use burn_dist_models::data::Cifar10;
///
/// # let folder = tempfile::tempdir()?;
/// # for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
/// #     std::fs::write(folder.path().join(name).with_extension("bin"), [0; 3073])?;
/// # }
/// # let folder = folder.path();
/// let (train, test) = Cifar10::open(folder)?;
/// let image = train.get(0)?;
/// println!("{} and {} images, the first is a {}", train.len(), test.len(), train.classes()[0]);
/// # assert_eq!((train.len(), test.len(), image.label), (5, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009;
/// <https://www.cs.toronto.edu/~kriz/cifar.html>, "CIFAR-10 binary version".
#[derive(Clone, Hash)]
pub struct Cifar10 {
    records: Vec<u8>,
    classes: Vec<String>,
}

impl Cifar10 {
    /// Reads the training and the test part from `folder`: `cifar-10-batches-bin`, or a folder that it lies in.
    ///
    /// # Errors
    ///
    /// [`Error::File`] names the folder or file that is missing, cannot be read, is not a whole number of
    /// records, or holds a label above 9 (with the record's number, counted from 0).
    pub fn open(folder: impl AsRef<Path>) -> Result<(Self, Self)> {
        let folder = files::folder(folder.as_ref(), FOLDER, "of CIFAR-10's binary version")?;
        let classes = class_names(&folder.join(NAMES))?;
        let mut train = Vec::new();
        for name in TRAIN {
            read_records(&folder.join(name), &mut train)?;
        }
        let mut test = Vec::new();
        read_records(&folder.join(TEST), &mut test)?;
        let part = |records| Self {
            records,
            classes: classes.clone(),
        };
        Ok((part(train), part(test)))
    }

    /// Whether any of its files, or the folder of that name, is in `folder`.
    #[must_use]
    pub fn is_in(folder: impl AsRef<Path>) -> bool {
        let folder = folder.as_ref();
        let mut names = TRAIN.into_iter().chain([TEST, NAMES, FOLDER]);
        names.any(|name| folder.join(name).exists())
    }

    /// The ten classes' names, by label.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The labels in order.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = u8> + '_ {
        self.records.chunks_exact(RECORD).map(|record| record[0])
    }
}

impl Dataset for Cifar10 {
    type Item = Image;

    fn len(&self) -> usize {
        self.records.len() / RECORD
    }

    fn get(&self, index: usize) -> Result<Image> {
        let record = self.records.chunks_exact(RECORD).nth(index);
        let (label, planes) = record
            .and_then(|record| record.split_first_chunk())
            .ok_or_else(|| {
                let expected = format!("less than the {} images there are", self.len());
                Error::config("image index", expected, index)
            })?;
        let [label] = *label;
        let mut pixels = [0; PIXELS];
        pixels.copy_from_slice(planes);
        let label = label.into();
        Ok(Image { pixels, label })
    }
}

/// Shows two numbers instead of megabytes of pixels.
impl std::fmt::Debug for Cifar10 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cifar10")
            .field("images", &self.len())
            .field("classes", &self.classes.len())
            .finish()
    }
}

/// Appends a file's records, checked.
fn read_records(path: &Path, records: &mut Vec<u8>) -> Result<()> {
    let bytes = files::read(path, "a file of CIFAR-10's binary version")?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        let expected = format!("a whole number of records of {RECORD} bytes");
        let found = match bytes.len() % RECORD {
            0 => "an empty file".into(),
            rest => format!(
                "{} bytes, {rest} too many or {} too few",
                bytes.len(),
                RECORD - rest
            ),
        };
        return Err(Error::file(path, expected, found));
    }
    let mut labels = bytes.chunks_exact(RECORD).map(|record| record[0]);
    if let Some(number) = labels.position(|label| usize::from(label) >= CLASSES.len()) {
        let expected = format!("a label from 0 to 9 in record {number}");
        return Err(Error::file(path, expected, bytes[number * RECORD]));
    }
    records.extend_from_slice(&bytes);
    Ok(())
}

/// The names in the archive's list, or the usual ones if there is no list.
fn class_names(path: &Path) -> Result<Vec<String>> {
    let names = files::names(path, &CLASSES)?;
    if names.len() == CLASSES.len() {
        Ok(names)
    } else {
        Err(Error::file(path, "10 class names, one a line", names.len()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A folder whose training files hold 2 records each and whose test file holds 3.
    fn small() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let files = TRAIN.into_iter().map(|name| (name, 2)).chain([(TEST, 3)]);
        for (number, (name, count)) in files.enumerate() {
            let records: Vec<u8> = (0..count)
                .flat_map(|i| {
                    let mut record = [number as u8; RECORD];
                    record[0] = (2 * number + i) as u8 % 10;
                    record[1] = 200 + i as u8;
                    record
                })
                .collect();
            fs::write(folder.path().join(name), records).unwrap();
        }
        folder
    }

    fn error(folder: &Path) -> String {
        let message = Cifar10::open(folder).unwrap_err().to_string();
        message.replace(&folder.display().to_string(), "DIR")
    }

    #[test]
    fn records_are_read_in_file_order() {
        let folder = small();
        let (train, test) = Cifar10::open(folder.path()).unwrap();
        assert_eq!((train.len(), test.len()), (10, 3));
        assert_eq!(
            train.labels().collect::<Vec<_>>(),
            (0..10).collect::<Vec<_>>()
        );
        assert_eq!(test.labels().collect::<Vec<_>>(), [0, 1, 2]);
        let image = train.get(7).unwrap();
        assert_eq!(image.label, 7);
        assert_eq!(image.pixels[..2], [201, 3]);
        assert_eq!(train.classes()[9], "truck");
        assert_eq!(
            train.get(10).unwrap_err().to_string(),
            "image index: expected less than the 10 images there are, found 10"
        );
    }

    #[test]
    fn the_parent_folder_is_accepted() {
        let (parent, folder) = (tempfile::tempdir().unwrap(), small());
        fs::rename(folder.path(), parent.path().join(FOLDER)).unwrap();
        assert_eq!(Cifar10::open(parent.path()).unwrap().0.len(), 10);
    }

    #[test]
    fn class_names_are_read_from_the_list_if_it_exists() {
        let folder = small();
        let list = folder.path().join(NAMES);
        fs::write(&list, "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
        assert_eq!(Cifar10::open(folder.path()).unwrap().1.classes()[9], "j");
        fs::write(&list, "a\nb\n").unwrap();
        assert_eq!(
            error(folder.path()),
            "DIR/batches.meta.txt: expected 10 class names, one a line, found 2"
        );
    }

    #[test]
    fn a_missing_folder_or_file_is_named() {
        let folder = small();
        let expected =
            "expected the folder cifar-10-batches-bin of CIFAR-10's binary version, or its parent";
        assert_eq!(
            error(&folder.path().join("typo")),
            format!("DIR: {expected}, found nothing")
        );
        assert_eq!(
            error(&folder.path().join(TEST)),
            format!("DIR: {expected}, found a file")
        );
        fs::remove_file(folder.path().join(TRAIN[2])).unwrap();
        assert_eq!(
            error(folder.path()),
            "DIR/data_batch_3.bin: expected a file of CIFAR-10's binary version, found no such file"
        );
    }

    #[test]
    fn a_short_or_damaged_file_is_an_error_that_names_it() {
        let folder = small();
        let path = folder.path().join(TRAIN[1]);
        let mut records = fs::read(&path).unwrap();
        fs::write(&path, &records[..RECORD + 73]).unwrap();
        let expected = "DIR/data_batch_2.bin: expected a whole number of records of 3073 bytes";
        assert_eq!(
            error(folder.path()),
            format!("{expected}, found 3146 bytes, 73 too many or 3000 too few")
        );
        fs::write(&path, []).unwrap();
        assert_eq!(
            error(folder.path()),
            format!("{expected}, found an empty file")
        );
        records[RECORD] = 10;
        fs::write(&path, &records).unwrap();
        assert_eq!(
            error(folder.path()),
            "DIR/data_batch_2.bin: expected a label from 0 to 9 in record 1, found 10"
        );
    }
}
