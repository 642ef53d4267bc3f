//! The known ways in which a folder holds a training and a test part.

use std::path::{Path, PathBuf};

/// The folder that food101's archive unpacks to.
const FOOD: &str = "food-101";
/// Names of the test part beside `train`, the first that is there.
const TEST: [&str; 4] = ["test", "val", "validation", "valid"];

/// Where the parts of a folder are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Class folders in `images`, and two lists of them.
    Lists {
        images: PathBuf,
        train: PathBuf,
        test: PathBuf,
    },
    /// Class folders in a folder for each part.
    Parts {
        train: PathBuf,
        test: Option<PathBuf>,
    },
    /// Class folders alone.
    Classes(PathBuf),
}

impl Layout {
    /// The layout of a folder, or of `food-101` inside it.
    pub(super) fn of(folder: &Path) -> Self {
        let nested = folder.join(FOOD);
        let folder = if nested.is_dir() { &nested } else { folder };
        let (images, meta) = (folder.join("images"), folder.join("meta"));
        if images.is_dir() && meta.is_dir() {
            return Self::Lists {
                images,
                train: meta.join("train.txt"),
                test: meta.join("test.txt"),
            };
        }
        let train = folder.join("train");
        if !train.is_dir() {
            return Self::Classes(folder.into());
        }
        let test = TEST.iter().map(|name| folder.join(name));
        Self::Parts {
            train,
            test: test.into_iter().find(|path| path.is_dir()),
        }
    }

    /// The file or folder of the test part, if there is one.
    pub(super) fn test(&self) -> Option<&Path> {
        match self {
            Self::Lists { test, .. } => Some(test),
            Self::Parts { test, .. } => test.as_deref(),
            Self::Classes(_) => None,
        }
    }
}
