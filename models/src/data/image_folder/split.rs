//! A test part that is split off the training images, where a folder has none.

use burn_dist::data::Stream;
use burn_dist::{Error, Result};
use std::collections::BTreeSet;

use super::folder::ImageFolder;

/// The share of each class that becomes the test part, and the seed that draws it.
///
/// It is drawn class by class, so that both parts have every class in the same ratio; at least one image of a class goes
/// to each. The same seed gives the same parts, on any number of ranks.
///
/// # Example
///
/// ```
/// use burn_dist_models::data::TestShare;
///
/// assert_eq!(TestShare::new(0.2, 42)?.share(), 0.2);
/// assert!(TestShare::new(1.0, 42).is_err());
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
///
/// Hugging Face: `Dataset.train_test_split(test_size, stratify_by_column="label", seed)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TestShare {
    share: f64,
    seed: u64,
}

impl TestShare {
    /// So much of each class, drawn by this seed.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the share does not lie between 0 and 1.
    pub fn new(share: f64, seed: u64) -> Result<Self> {
        if share > 0.0 && share < 1.0 {
            Ok(Self { share, seed })
        } else {
            Err(Error::config(
                "share for a test part",
                "a number between 0 and 1",
                share,
            ))
        }
    }

    /// The share.
    #[must_use]
    pub fn share(self) -> f64 {
        self.share
    }
}

impl ImageFolder {
    /// The training and the test part of these images.
    pub(super) fn split(self, TestShare { share, seed }: TestShare) -> Result<(Self, Self)> {
        let mut classes = vec![Vec::new(); self.classes.len()];
        for (index, label) in self.labels().enumerate() {
            if let Some(class) = classes.get_mut(usize::from(label)) {
                class.push(index);
            }
        }
        let mut test = BTreeSet::new();
        for (label, mut images) in classes.into_iter().enumerate() {
            let all = images.len();
            if all < 2 {
                let class = self.root.join(&self.classes[label]);
                let expected = "two images or more, of which one is for the test";
                return Err(Error::file(&class, expected, all));
            }
            Stream::new(*b"testpart", seed, label as u64, 0).shuffle(&mut images);
            let count = (all as f64 * share).round() as usize;
            test.extend(images.into_iter().take(count.clamp(1, all - 1)));
        }
        Ok((
            self.with_images(|index| !test.contains(&index)),
            self.with_images(|index| test.contains(&index)),
        ))
    }
}
