//! The parts of a data set: to train with, to score epochs with, and to test with.

use super::RunArgs;
use burn_dist::data::{Dataset, Subset};
use burn_dist::{Error, Result, World};

/// What is trained with, what epochs are scored on if not on the test set, and the test set.
pub(super) type Divided<D, T> = (Subset<D>, Option<Subset<D>>, Subset<T>);

impl RunArgs {
    /// Says on rank 0 that a made-up data set is used, because no other was named.
    pub(super) fn say_made_up(&self, world: &World, what: &str) {
        if world.is_chief() {
            log::info!("without --data, the {what} are made up and need no files");
        }
    }

    /// Whether the test set is scored at the end, and not with the last epoch already.
    pub fn tests_at_end(&self) -> bool {
        self.validation.is_some() || self.load_best_model_at_end
    }

    /// The parts of a data set: to train with, to score epochs with, and to test with at the end where that is another one.
    ///
    /// # Errors
    /// [`Error::Config`] if a size on the command line is not there.
    pub(super) fn divide<D: Dataset + Clone, T: Dataset + Clone>(
        &self,
        train: D,
        test: T,
    ) -> Result<Divided<D, T>> {
        let sized = |flag: &str, wanted: Option<usize>, there: usize| match wanted {
            Some(wanted) if wanted > there => {
                let expected = format!("at most {there}, the samples that there are");
                Err(Error::config(flag.to_owned(), expected, wanted))
            }
            _ => Ok(wanted.unwrap_or(there)),
        };
        let train_size = sized("--train-size", self.train_size, train.len())?;
        let test_size = sized("--test-size", self.test_size, test.len())?;
        let test = part(test, test_size, self.seed)?;
        let train = part(train, train_size, self.seed)?;
        let Some(share) = self.validation else {
            return Ok((train, None, test));
        };
        let out = (share * train_size as f64).round() as usize;
        if out == 0 || out >= train_size {
            let expected = format!("a share that leaves samples on both sides, of {train_size}");
            return Err(Error::config("--validation", expected, share));
        }
        // Of the part that was drawn, so that no sample is in both.
        let (train, validation) = train.split(out, self.seed)?;
        Ok((train, Some(validation), test))
    }
}

/// So many samples, in their own order if it is all of them.
fn part<D: Dataset>(data: D, samples: usize, seed: u64) -> Result<Subset<D>> {
    if samples == data.len() {
        Subset::new(data, (0..samples).collect())
    } else {
        Subset::random(data, samples, seed)
    }
}
