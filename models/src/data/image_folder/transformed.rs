//! A folder of images whose samples are the squares that a model takes.

use burn_dist::data::Dataset;
use burn_dist::{Error, Result};

use super::folder::ImageFolder;
use crate::data::pictures::{Picture, Transform};

/// The images of a folder, each cut and scaled while it is read; made by [`ImageFolder::transformed`].
///
/// A loader's worker holds one whole image at a time, and squares beside it.
#[derive(Debug, Clone)]
pub struct TransformedFolder {
    folder: ImageFolder,
    transform: Transform,
}

impl ImageFolder {
    /// These squares of the images in place of the whole ones.
    #[must_use]
    pub fn transformed(self, transform: Transform) -> TransformedFolder {
        TransformedFolder {
            folder: self,
            transform,
        }
    }
}

impl Dataset for TransformedFolder {
    type Item = Picture;

    fn len(&self) -> usize {
        self.folder.len()
    }

    fn get(&self, index: usize) -> Result<Picture> {
        self.get_in_epoch(index, 0)
    }

    fn get_in_epoch(&self, index: usize, epoch: u64) -> Result<Picture> {
        let picture = self.folder.get(index)?;
        let square = self.transform.apply(picture, epoch, index);
        square.map_err(|found| {
            let path = self.folder.path(index).unwrap_or_default();
            Error::file(&path, "an image that can be cut and scaled", found)
        })
    }
}
