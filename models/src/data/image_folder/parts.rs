//! Opening of a folder: all of its images, or its training and its test part.

use burn_dist::{Error, Result};
use std::collections::BTreeSet;
use std::path::Path;

use super::folder::{Entry, ImageFolder};
use super::layout::Layout;
use super::listing::{self, ClassFolder, LeftOut};
use super::lists;
use super::split::TestShare;

impl ImageFolder {
    /// The images in the class folders of `root`.
    ///
    /// # Errors
    ///
    /// [`Error::File`] names a folder that cannot be read, has less than two class folders or more than 65536, or has
    /// a class without an image.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let classes = listing::classes(root)?;
        let mut images = Vec::new();
        let mut left_out = LeftOut::default();
        for (label, class) in (0..=u16::MAX).zip(&classes) {
            let ClassFolder { files, others } = ClassFolder::read(root, class)?;
            if files.is_empty() {
                return Err(listing::empty(root, class, &others));
            }
            let entry = |(path, bytes)| Entry { path, bytes, label };
            images.extend(files.into_iter().map(entry));
            left_out.add(others);
        }
        Ok(Self {
            root: root.into(),
            classes: classes.into(),
            images,
            left_out,
        })
    }

    /// The training and the test part of a folder.
    ///
    /// They are found as `train` with `test`, `val`, `validation` or `valid` (the first that is there), each with a
    /// folder for each class; as food101's `images` with the lists `meta/train.txt` and `meta/test.txt`, of lines
    /// `class/name`; or split off where `share` says how much.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open); [`Error::File`] if there is no test part and no `share`, if a list has an entry
    /// without a file, and if the parts have different classes; [`Error::Config`] if there is a test part and a
    /// `share`.
    pub fn parts(folder: impl AsRef<Path>, share: Option<TestShare>) -> Result<(Self, Self)> {
        let layout = Layout::of(folder.as_ref());
        if let (Some(share), Some(test)) = (share, layout.test()) {
            let expected = format!("none: {} is the test part", test.display());
            return Err(Error::config(
                "share for a test part",
                expected,
                share.share(),
            ));
        }
        match (layout, share) {
            (
                Layout::Lists {
                    images,
                    train,
                    test,
                },
                _,
            ) => lists::open(&images, &train, &test),
            (
                Layout::Parts {
                    train,
                    test: Some(test),
                },
                _,
            ) => {
                let (train, test) = (Self::open(train)?, Self::open(test)?);
                same_classes(&train, &test)?;
                Ok((train, test))
            }
            (Layout::Parts { train: all, .. } | Layout::Classes(all), Some(share)) => {
                Self::open(all)?.split(share)
            }
            (Layout::Parts { train: root, .. } | Layout::Classes(root), None) => {
                // A folder that is none at all is the more helpful error.
                listing::classes(&root)?;
                Err(Error::file(
                    folder.as_ref(),
                    "train with test or val, or images with meta/train.txt and meta/test.txt",
                    "no test part: give a share of the images to split off, with --test-split 0.2",
                ))
            }
        }
    }

    /// The classes of the training part that [`parts`](Self::parts) would find, without a look at the images.
    ///
    /// # Errors
    ///
    /// [`Error::File`] as [`parts`](Self::parts).
    pub fn class_names(folder: impl AsRef<Path>) -> Result<Vec<String>> {
        match Layout::of(folder.as_ref()) {
            Layout::Lists { train, .. } => lists::classes(&train),
            Layout::Parts { train: root, .. } | Layout::Classes(root) => listing::classes(&root),
        }
    }
}

/// Checks that both parts have the same classes: a label would be another class in each.
fn same_classes(train: &ImageFolder, test: &ImageFolder) -> Result<()> {
    let of = |part: &ImageFolder| -> BTreeSet<String> { part.classes.iter().cloned().collect() };
    let (ours, theirs) = (of(train), of(test));
    lists::compare_classes(&test.root, &ours, &theirs)
}
