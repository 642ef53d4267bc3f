//! Images that cannot be decoded: found before training, and left out on all ranks alike.
//!
//! A sampler deals out samples before anybody has decoded them, and the number of samples of all ranks in a step is what
//! a summed loss is divided by. A sample that vanished only when it is read would make that number wrong on every rank
//! but one. So broken images are looked for first, and the sampler never knows of them.

use burn_dist::data::Dataset;
use burn_dist::{Error, Result};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::folder::ImageFolder;

/// An image that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenImage {
    /// Its index.
    pub index: usize,
    /// Its file, and what is wrong with it.
    pub message: String,
}

impl ImageFolder {
    /// Those of the images `indices` that cannot be decoded, in their order.
    ///
    /// # Cost
    /// Each is read and decoded once, on so many threads: as much as an epoch without training.
    ///
    /// # Errors
    /// [`Error::Config`] if no thread can be started.
    pub fn broken(&self, indices: &[usize], workers: usize) -> Result<Vec<BrokenImage>> {
        let workers = workers.max(1);
        let look = |worker: usize| -> Vec<BrokenImage> {
            let mine = indices.iter().skip(worker).step_by(workers);
            mine.filter_map(|&index| self.problem(index)).collect()
        };
        let found = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers.min(indices.len()))
                .map(|worker| thread::Builder::new().spawn_scoped(scope, move || look(worker)))
                .collect::<std::io::Result<_>>()?;
            let ends = threads.into_iter().map(|thread| thread.join());
            Ok(ends.collect::<thread::Result<Vec<_>>>())
        });
        let wrong = |found: String| {
            let expected = format!("{workers} threads that look at the images");
            Error::config("broken images", expected, found)
        };
        let found = found.map_err(|cause: std::io::Error| wrong(cause.to_string()))?;
        let found = found.map_err(|_| wrong("a panic of one".into()))?;
        let mut all = found.concat();
        all.sort_by_key(|image| image.index);
        Ok(all)
    }

    fn problem(&self, index: usize) -> Option<BrokenImage> {
        // A decoder that panics on a file has found it broken, too. Nothing of the call is used again.
        let message = match catch_unwind(AssertUnwindSafe(|| self.get(index))) {
            Ok(Ok(_)) => return None,
            Ok(Err(Error::File { path, found, .. })) => {
                // What to do is said once, not for each file.
                let cause = found.split_once(": fetch it again").map(|(cause, _)| cause);
                format!("{path} ({})", cause.unwrap_or(&found))
            }
            Ok(Err(other)) => other.to_string(),
            Err(_) => format!("{} (a panic of the decoder)", self.path(index)?.display()),
        };
        Some(BrokenImage { index, message })
    }

    /// The same without these images.
    ///
    /// # Errors
    /// [`Error::File`] if a class has no others.
    pub fn without(self, broken: &BTreeSet<usize>) -> Result<Self> {
        let rest = self.with_images(|index| !broken.contains(&index));
        let left: BTreeSet<u16> = rest.labels().collect();
        let mut labels = (0..=u16::MAX).zip(self.classes.iter());
        match labels.find(|(label, _)| !left.contains(label)) {
            None => Ok(rest),
            Some((_, class)) => {
                let expected = "an image of the class that can be decoded";
                Err(Error::file(
                    &self.root.join(class),
                    expected,
                    "broken ones alone",
                ))
            }
        }
    }
}
