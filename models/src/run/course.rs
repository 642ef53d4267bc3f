//! The position of a run: its step, its epoch, and the data that comes next.

use super::{RunArgs, Schedule};
use burn_dist::Noise;
use burn_dist::data::{Batches, Loader};
use burn_dist::{Error, Result, World};
use serde::{Deserialize, Serialize};

/// The steps of a run, and how many of them are done. A save holds the samples seen ([`Progress`]), from which
/// the number of steps done follows.
#[derive(Debug, Clone)]
pub struct Course {
    schedule: Schedule,
    /// Backward passes of a step.
    accumulate: usize,
    /// Samples of all ranks in a step, and in an epoch.
    each: usize,
    samples: usize,
    /// Steps of an epoch, and of the whole run.
    epoch: usize,
    steps: usize,
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

impl RunArgs {
    /// The steps of this run over a training set, none of them done.
    pub fn course<B: Send + 'static>(&self, world: &World, data: &Loader<B>) -> Course {
        Course::new(self, (world.rank(), world.size()), data.samples())
    }
}

impl Course {
    /// The course of a rank, given with the number of ranks, through so many samples of all ranks.
    fn new(args: &RunArgs, (rank, ranks): (usize, usize), samples: usize) -> Self {
        let pass = ranks.saturating_mul(args.per_gpu_batch).max(1);
        let epoch = samples.div_ceil(pass).div_ceil(args.accumulate);
        let all = args.epochs.saturating_mul(epoch);
        let steps = args.steps.map_or(all, |steps| steps.min(all));
        Self {
            schedule: args.schedule(steps),
            accumulate: args.accumulate,
            each: pass.saturating_mul(args.accumulate),
            samples,
            epoch,
            steps,
            done: 0,
            seed: args.seed,
            rank: rank as u32,
        }
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Steps that are done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Epochs that are done, or at least begun.
    pub fn epochs(&self) -> usize {
        self.done.div_ceil(self.epoch.max(1))
    }

    /// The learning rate of the next step.
    pub fn rate(&self) -> f64 {
        self.schedule.at(self.done)
    }

    /// The part of a save that says how far the run has come.
    pub fn progress(&self) -> Progress {
        let epoch = self.epoch.max(1);
        Progress {
            epochs: self.done / epoch,
            seen: (self.done % epoch).saturating_mul(self.each),
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
            return refused("--seed", seed.to_string(), self.seed.to_string());
        }
        if seen > 0 && samples != self.samples {
            let found = format!("{} samples", self.samples);
            return refused("training data", format!("{samples} samples"), found);
        }
        if !seen.is_multiple_of(self.each) || seen > 0 && seen >= samples {
            return refused(
                "--per-gpu-batch, --accumulate and the number of ranks",
                "a product that divides what was seen".into(),
                self.each.to_string(),
            );
        }
        let done = epochs
            .checked_mul(self.epoch)
            .and_then(|done| done.checked_add(seen / self.each));
        match done.filter(|done| *done <= self.steps) {
            Some(done) => self.done = done,
            None => {
                let found = format!("{epochs} epochs and {seen} samples of the next");
                let most = format!(
                    "a save from within this run of {} steps, {} an epoch (raise --epochs or --steps)",
                    self.steps, self.epoch
                );
                return Err(Error::config("--resume", most, found));
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
        if self.done >= self.steps {
            return Ok(None);
        }
        let (epoch, step) = (self.done / self.epoch, self.done % self.epoch);
        data.resume(epoch as u64, step * self.accumulate).map(Some)
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
        if self.done >= self.steps {
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
    use burn_dist::data::Batch;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        run: RunArgs,
    }

    /// Five batches an epoch, each a single number.
    fn course(args: &str) -> (Course, Loader<usize>) {
        let args = ["run", "--per-gpu-batch", "1"]
            .into_iter()
            .chain(args.split_whitespace());
        let run = Only::parse_from(args).run;
        let five: Vec<usize> = (0..5).collect();
        let data = Loader::replicated(five, Batch::per_rank(1), |items, _| items[0]);
        (Course::new(&run, (3, 1), 5), data.unwrap())
    }

    /// Every step's epoch, batches and passes.
    fn steps(mut course: Course, data: &Loader<usize>) -> Vec<(usize, Vec<usize>, Vec<Noise>)> {
        let mut all = Vec::new();
        while let Some(mut batches) = course.epoch(data).unwrap() {
            while let Some(step) = course.step(&mut batches).unwrap() {
                course.advance();
                let (batches, noise) = step.into_iter().unzip();
                all.push((course.epochs(), batches, noise));
            }
        }
        assert_eq!(course.done(), course.steps());
        all
    }

    #[test]
    fn a_step_takes_accumulate_batches_and_the_last_of_an_epoch_may_take_fewer() {
        let (course, data) = course("--epochs 2 --accumulate 2 --seed 9");
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
        let args = "--epochs 3 --accumulate 2 --steps 8";
        let (whole, data) = course(args);
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

    /// A course of 24 samples on 2 ranks, so many steps on its way.
    fn over(args: &str, done: usize) -> Course {
        let args = std::iter::once("run").chain(args.split_whitespace());
        let mut course = Course::new(&Only::parse_from(args).run, (0, 2), 24);
        (0..done).for_each(|_| course.advance());
        course
    }

    #[test]
    fn another_batch_size_resumes_after_the_samples_seen() {
        // 8 of 24 samples are seen; steps are 4 samples.
        let saved = over("--per-gpu-batch 2", 2).progress();
        for (args, done) in [
            ("--per-gpu-batch 2", 2),
            ("--per-gpu-batch 1", 4),
            ("--per-gpu-batch 4", 1),
            ("--per-gpu-batch 1 --accumulate 4", 1),
        ] {
            let mut course = over(args, 0);
            course.resume(&saved).unwrap();
            assert_eq!(course.done(), done, "{args}");
            assert_eq!(course.progress(), saved, "{args}");
        }
        for (args, word) in [
            ("--per-gpu-batch 3", "--per-gpu-batch"),
            ("--per-gpu-batch 2 --accumulate 3", "--accumulate"),
            ("--per-gpu-batch 2 --seed 1", "--seed"),
            ("--per-gpu-batch 2 --steps 1", "--steps"),
        ] {
            let error = over(args, 0).resume(&saved).unwrap_err().to_string();
            assert!(error.contains(word), "{args}: {error}");
        }
        let mut other = Course::new(&Only::parse_from(["run"]).run, (0, 2), 25);
        let error = other.resume(&saved).unwrap_err().to_string();
        assert!(error.contains("24 samples"), "{error}");
    }

    #[test]
    fn between_epochs_seed_and_batch_size_may_change() {
        let saved = over("--per-gpu-batch 2", 6).progress();
        let mut course = over("--per-gpu-batch 5 --seed 3", 0);
        course.resume(&saved).unwrap();
        assert_eq!(course.done(), 3);
    }

    #[test]
    fn a_save_past_the_last_step_is_refused() {
        let text = r#"{"epochs":99999999999,"seen":0,"samples":24,"seed":0}"#;
        for epochs in ["99999999999", "18446744073709551615"] {
            let text = text.replace("99999999999", epochs);
            let saved: Progress = serde_json::from_str(&text).unwrap();
            let error = over("", 0).resume(&saved).unwrap_err().to_string();
            assert!(error.contains("--epochs"), "{error}");
        }
    }

    #[test]
    fn a_run_of_0_epochs_has_0_steps() {
        let (course, data) = course("--epochs 0");
        assert!(course.epoch(&data).unwrap().is_none());
        assert_eq!((course.steps(), course.epochs()), (0, 0));
    }
}
