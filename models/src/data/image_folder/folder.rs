//! Images of a folder by number: their files and their classes.

use burn_dist::data::Dataset;
use burn_dist::{Error, Result};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use super::listing::LeftOut;
use crate::data::files;
use crate::data::pictures::{Picture, decode};

/// Images in folders that are named after their classes: `root/cat/1.jpg`, `root/dog/deeper/2.png`.
///
/// Classes are numbered in the order of their names. Files that end in `.jpg`, `.jpeg` or `.png`, in any case, are
/// images, at any depth; what they are is decided by their content. Names that begin with a dot are passed over, and
/// links are followed. Opening reads folders and the sizes of files; images are decoded when they are asked for.
///
/// # Example
///
/// ```no_run
/// use burn_dist::data::Dataset;
/// use burn_dist_models::data::{ImageFolder, TestShare};
///
/// // food101 as it is unpacked, or folders `train` and `test`.
/// let (train, test) = ImageFolder::parts("food-101", None)?;
/// println!("{} and {} images of {} classes", train.len(), test.len(), train.classes().len());
///
/// // Class folders alone: every fifth image of each class is for the test.
/// let fifth = TestShare::new(0.2, 42)?;
/// let (train, test) = ImageFolder::parts("flowers", Some(fifth))?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
///
/// torchvision: `datasets.ImageFolder` and `datasets.Food101`.
#[derive(Clone)]
pub struct ImageFolder {
    pub(super) root: PathBuf,
    pub(super) classes: Arc<[String]>,
    pub(super) images: Vec<Entry>,
    pub(super) left_out: LeftOut,
}

/// An image that is in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    /// Its path under the root.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) label: u16,
}

impl ImageFolder {
    /// The classes' names, by label.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The labels in order.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.images.iter().map(|image| image.label)
    }

    /// The file of an image; `None` behind the last.
    #[must_use]
    pub fn path(&self, index: usize) -> Option<PathBuf> {
        Some(self.root.join(&self.images.as_slice().get(index)?.path))
    }

    /// What is said of files that are no images by their name; `None` if there are none.
    #[must_use]
    pub fn left_out(&self) -> Option<String> {
        self.left_out.message()
    }

    /// The part of it with these images.
    pub(super) fn with_images(&self, keep: impl Fn(usize) -> bool) -> Self {
        let images = self.images.iter().enumerate();
        let kept = images.filter(|(index, _)| keep(*index));
        Self {
            images: kept.map(|(_, image)| image.clone()).collect(),
            ..self.clone()
        }
    }
}

impl Dataset for ImageFolder {
    type Item = Picture;

    fn len(&self) -> usize {
        self.images.len()
    }

    /// The whole image.
    ///
    /// # Errors
    ///
    /// [`Error::File`] for a file that is missing, or no whole JPEG or PNG.
    fn get(&self, index: usize) -> Result<Picture> {
        let Some(Entry { path, label, .. }) = self.images.as_slice().get(index) else {
            let expected = format!("less than the {} images there are", self.len());
            return Err(Error::config("image index", expected, index));
        };
        let path = self.root.join(path);
        let bytes = files::read(&path, "an image")?;
        decode(&bytes, *label).map_err(|found| {
            let advice = "fetch it again, remove it, or leave broken images out";
            let expected = "a whole JPEG or PNG image";
            Error::file(
                &path,
                expected,
                format!("{found}: {advice} (--broken-images skip)"),
            )
        })
    }
}

/// Names, sizes and labels, by which ranks compare what they have opened; the root may differ between hosts.
impl Hash for ImageFolder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.classes.hash(state);
        self.images.hash(state);
    }
}

/// Shows numbers instead of thousands of names.
impl fmt::Debug for ImageFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageFolder")
            .field("root", &self.root)
            .field("images", &self.images.len())
            .field("classes", &self.classes.len())
            .finish()
    }
}
