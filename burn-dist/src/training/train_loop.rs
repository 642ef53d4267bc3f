//! The position of a run: its step, its epoch, and the data that comes next.

use crate::data::{Batches, Loader};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::world::World;
use serde::{Deserialize, Serialize};

/// The steps of a run over a loader's epochs, and how many of them are done.
///
/// A save holds the samples seen ([`progress`](Self::progress)), from which the number of steps done follows: a run
/// that resumes with another batch size or accumulation still sees each sample of the epoch once.
/// The [module](super) has a whole loop.
///
/// # Source
/// Lightning: the fit loop's progress; PyTorch: `StatefulDataLoader`.
#[derive(Debug, Clone)]
#[must_use]
pub struct TrainLoop {
    /// Backward passes of a step.
    accumulate: usize,
    /// Samples of all ranks in a full pass, and in an epoch.
    pass: usize,
    samples: usize,
    epochs: usize,
    limit: Option<usize>,
    done: usize,
    seed: u64,
    rank: u32,
}

/// How far a run has come in its data, whatever the size of its batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are complete.
    epochs: usize,
    /// Samples of the next epoch that all ranks together have seen, and that it has.
    seen: usize,
    samples: usize,
    /// The seed of their order.
    seed: u64,
}

impl TrainLoop {
    /// One epoch of `data`, none of it done, one pass a step.
    pub fn new<B: Send + 'static>(world: &World, data: &Loader<B>) -> Self {
        Self {
            accumulate: 1,
            pass: data.batch(),
            samples: data.samples(),
            epochs: 1,
            limit: None,
            done: 0,
            seed: data.seed().unwrap_or_else(|| world.seed()),
            rank: world.rank() as u32,
        }
    }

    /// The same with so many passes over the data.
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.epochs = epochs;
        self
    }

    /// The same with so many backward passes in a step; the last of an epoch may have fewer.
    ///
    /// # Errors
    /// [`Error::Config`] for 0.
    pub fn accumulate(mut self, passes: usize) -> Result<Self> {
        if passes == 0 {
            return Err(Error::config("accumulation", "at least 1 pass a step", 0));
        }
        self.accumulate = passes;
        Ok(self)
    }

    /// The same, ending after so many steps, also within an epoch.
    pub fn limit(mut self, steps: Option<usize>) -> Self {
        self.limit = steps;
        self
    }

    /// Samples of all ranks in a full step.
    fn each(&self) -> usize {
        self.pass.saturating_mul(self.accumulate).max(1)
    }

    /// Steps of an epoch.
    fn epoch_steps(&self) -> usize {
        self.samples
            .div_ceil(self.pass.max(1))
            .div_ceil(self.accumulate)
            .max(1)
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> usize {
        let all = self.epochs.saturating_mul(self.epoch_steps());
        self.limit.map_or(all, |limit| limit.min(all))
    }

    /// Steps that are done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Epochs that are done, or at least begun.
    pub fn epochs_begun(&self) -> usize {
        self.done.div_ceil(self.epoch_steps())
    }

    /// The part of a save that says how far the run has come.
    pub fn progress(&self) -> Progress {
        let epoch = self.epoch_steps();
        Progress {
            epochs: self.done / epoch,
            seen: (self.done % epoch).saturating_mul(self.each()),
            samples: self.samples,
            seed: self.seed,
        }
    }

    /// Resumes from a save: in each epoch every sample comes once, those seen before the save counted.
    ///
    /// Batch size and accumulation may differ from those of the save, as long as the samples seen in the epoch are
    /// a whole number of steps; seed and data may differ too, if the save is from the end of an epoch.
    ///
    /// # Errors
    /// [`Error::Config`] if they differ otherwise, and for a save past the last step of this run.
    pub fn resume(&mut self, saved: &Progress) -> Result<()> {
        let Progress {
            epochs,
            seen,
            samples,
            seed,
        } = *saved;
        let refused = |what: &str, expected: String, found: String| {
            let expected = format!(
                "{expected}, as {seen} of the {samples} samples of epoch {} have been seen",
                epochs.saturating_add(1)
            );
            Err(Error::config(what, expected, found))
        };
        if seen > 0 && seed != self.seed {
            return refused(
                "the seed of the data's order",
                seed.to_string(),
                self.seed.to_string(),
            );
        }
        if seen > 0 && samples != self.samples {
            let found = format!("{} samples", self.samples);
            return refused("the training data", format!("{samples} samples"), found);
        }
        let (each, steps, epoch) = (self.each(), self.steps(), self.epoch_steps());
        if !seen.is_multiple_of(each) || seen > 0 && seen >= samples {
            return refused(
                "the samples of a step (batch per rank, ranks, accumulation)",
                "a number that divides what was seen".into(),
                each.to_string(),
            );
        }
        let done = epochs
            .checked_mul(epoch)
            .and_then(|done| done.checked_add(seen / each));
        match done.filter(|done| *done <= steps) {
            Some(done) => self.done = done,
            None => {
                let found = format!("{epochs} epochs and {seen} samples of the next");
                let most = format!(
                    "one from within this run of {steps} steps, {epoch} an epoch (raise the epochs or the \
                     limit of steps)"
                );
                return Err(Error::config("the save to resume from", most, found));
            }
        }
        Ok(())
    }

    /// A step is done.
    pub fn advance(&mut self) {
        self.done += 1;
    }

    /// The batches of the next step's epoch, without those of steps that are done; `None` at the end of
    /// the run.
    ///
    /// # Errors
    /// What the loader returns.
    pub fn epoch<B: Send + 'static>(&self, data: &Loader<B>) -> Result<Option<Batches<B>>> {
        if self.done >= self.steps() {
            return Ok(None);
        }
        let epoch = self.epoch_steps();
        let (epoch, step) = (self.done / epoch, self.done % epoch);
        data.resume(epoch as u64, step.saturating_mul(self.each()))
            .map(Some)
    }

    /// The next step's batches, each with the noise of its forward pass; `None` at the end of the epoch and
    /// of the run.
    ///
    /// # Errors
    /// What the dataset returns.
    pub fn step<B>(&self, batches: &mut Batches<B>) -> Result<Option<Vec<(B, Noise)>>>
    where
        B: Send + 'static,
    {
        if self.done >= self.steps() {
            return Ok(None);
        }
        let first = self.done * self.accumulate;
        let passes = first..first + self.accumulate;
        let noise = passes.map(|pass| Noise::new(self.seed, pass as u64, self.rank));
        // `zip` takes from the first iterator before it asks the second, so the batches come second: none is lost.
        let step = noise
            .zip(batches)
            .map(|(noise, batch)| Ok((batch?, noise)))
            .collect::<Result<Vec<_>>>()?;
        Ok((!step.is_empty()).then_some(step))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::Batch;

    fn loop_of(pass: usize, samples: usize, accumulate: usize) -> TrainLoop {
        TrainLoop {
            accumulate,
            pass,
            samples,
            epochs: 10,
            limit: None,
            done: 0,
            seed: 9,
            rank: 3,
        }
    }

    /// Five batches an epoch, each a single number, two of them a step.
    fn course(epochs: usize, limit: Option<usize>) -> (TrainLoop, Loader<usize>) {
        let five: Vec<usize> = (0..5).collect();
        let data = Loader::replicated(five, Batch::per_rank(1), |items, _| items[0]);
        (loop_of(1, 5, 2).epochs(epochs).limit(limit), data.unwrap())
    }

    /// Every step's epoch, batches and passes.
    fn steps(mut course: TrainLoop, data: &Loader<usize>) -> Vec<(usize, Vec<usize>, Vec<Noise>)> {
        let mut all = Vec::new();
        while let Some(mut batches) = course.epoch(data).unwrap() {
            while let Some(step) = course.step(&mut batches).unwrap() {
                course.advance();
                let (batches, noise) = step.into_iter().unzip();
                all.push((course.epochs_begun(), batches, noise));
            }
        }
        assert_eq!(course.done(), course.steps());
        all
    }

    #[test]
    fn a_step_takes_accumulate_batches_and_the_last_of_an_epoch_may_take_fewer() {
        let (course, data) = course(2, None);
        assert_eq!(course.steps(), 6);
        let all = steps(course, &data);
        let batches: Vec<_> = all
            .iter()
            .map(|(epoch, b, _)| (*epoch, b.clone()))
            .collect();
        let epoch = |number| [vec![0, 1], vec![2, 3], vec![4]].map(|step| (number, step));
        assert_eq!(batches, [epoch(1), epoch(2)].concat());
        // Passes are counted as if every step were full, each with a noise of its own.
        let noise = |pass| Noise::new(9, pass, 3);
        assert_eq!(all[2].2, [noise(4)]);
        assert_eq!(all[3].2, [noise(6), noise(7)]);
    }

    #[test]
    fn a_resumed_course_equals_the_rest_of_an_uninterrupted_one() {
        let (whole, data) = course(3, Some(8));
        let all = steps(whole.clone(), &data);
        assert_eq!(all.len(), 8);
        for done in 0..=8 {
            let mut before = whole.clone();
            (0..done).for_each(|_| before.advance());
            let mut rest = whole.clone();
            rest.resume(&before.progress()).unwrap();
            assert_eq!(rest.done(), done);
            assert_eq!(steps(rest, &data), all[done..], "after {done}");
        }
    }

    /// A run over 24 samples on two ranks, so many steps on its way.
    fn over(batch: usize, accumulate: usize, done: usize) -> TrainLoop {
        let mut course = loop_of(2 * batch, 24, accumulate);
        (0..done).for_each(|_| course.advance());
        course
    }

    #[test]
    fn another_batch_size_resumes_after_the_samples_seen() {
        // 8 of 24 samples are seen; steps are 4 samples.
        let saved = over(2, 1, 2).progress();
        for (batch, accumulate, done) in [(2, 1, 2), (1, 1, 4), (4, 1, 1), (1, 4, 1)] {
            let mut course = over(batch, accumulate, 0);
            course.resume(&saved).unwrap();
            assert_eq!(course.done(), done, "{batch}, {accumulate}");
            assert_eq!(course.progress(), saved, "{batch}, {accumulate}");
        }
        let other_seed = TrainLoop {
            seed: 1,
            ..over(2, 1, 0)
        };
        for (mut course, words) in [
            (over(3, 1, 0), "samples of a step"),
            (over(2, 3, 0), "samples of a step"),
            (other_seed, "the seed"),
            (over(2, 1, 0).limit(Some(1)), "limit of steps"),
            (loop_of(4, 25, 1), "24 samples"),
        ] {
            let error = course.resume(&saved).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn between_epochs_seed_and_batch_size_may_change() {
        let saved = over(2, 1, 6).progress();
        let mut course = TrainLoop {
            seed: 3,
            ..over(5, 1, 0)
        };
        course.resume(&saved).unwrap();
        assert_eq!(course.done(), 3);
    }

    #[test]
    fn a_save_past_the_last_step_is_refused() {
        let text = r#"{"epochs":99999999999,"seen":0,"samples":24,"seed":9}"#;
        for epochs in ["99999999999", "18446744073709551615"] {
            let text = text.replace("99999999999", epochs);
            let saved: Progress = serde_json::from_str(&text).unwrap();
            let error = over(2, 1, 0).resume(&saved).unwrap_err().to_string();
            assert!(error.contains("raise the epochs"), "{error}");
        }
    }

    #[test]
    fn a_run_of_0_epochs_has_0_steps() {
        let (course, data) = course(0, None);
        assert!(course.epoch(&data).unwrap().is_none());
        assert_eq!((course.steps(), course.epochs_begun()), (0, 0));
        assert!(loop_of(1, 5, 1).accumulate(0).is_err());
    }
}
