//! Where images come from: a folder of images, CIFAR-10's files, or none.

use super::image_args::{BrokenImages, ImageArgs};
use crate::data::Cifar10;
use burn_dist::{Error, Result};
use std::path::Path;

/// Where images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageSource<'a> {
    /// They are computed.
    Synthetic,
    /// CIFAR-10's binary files.
    Cifar(&'a Path),
    /// JPEG and PNG files in a folder for each class.
    Folder(&'a Path),
}

impl<'a> ImageSource<'a> {
    /// What lies in `folder`.
    ///
    /// # Errors
    /// [`Error::File`] for a folder with neither; [`Error::User`] for a folder of images in a build without them;
    /// [`Error::Config`] for arguments that only a folder of images has a use for.
    pub(super) fn of(folder: Option<&'a Path>, args: &ImageArgs) -> Result<Self> {
        let source = match folder {
            None => Self::Synthetic,
            // What is no folder at all is an error there.
            Some(folder) if Cifar10::is_in(folder) || !folder.is_dir() => Self::Cifar(folder),
            Some(folder) if !has_folders(folder)? => {
                let expected = "CIFAR-10's binary files, or a folder of images for each class";
                return Err(Error::file(folder, expected, "neither"));
            }
            Some(folder) if cfg!(feature = "images") => Self::Folder(folder),
            Some(folder) => return Err(Self::not_built(folder)),
        };
        let flag = match args {
            _ if matches!(source, Self::Folder(_)) => return Ok(source),
            args if args.test_split.is_some() => "--test-split",
            args if args.broken_images == BrokenImages::Skip => "--broken-images skip",
            _ => return Ok(source),
        };
        let expected = "--data with a folder of images";
        let found = match source {
            Self::Cifar(_) => "CIFAR-10's files, which have a test part and none that is broken",
            _ => "no --data",
        };
        Err(Error::config(flag, expected, found))
    }
}

impl ImageSource<'_> {
    /// The error for a folder of images in a build without them.
    pub(super) fn not_built(folder: &Path) -> Error {
        Error::user(format!(
            "{} holds folders of images, and this program was built without them: build it with `--features images`",
            folder.display()
        ))
    }
}

fn has_folders(folder: &Path) -> Result<bool> {
    let unreadable = |cause| Error::file(folder, "a folder that can be read", cause);
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.path().is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}
