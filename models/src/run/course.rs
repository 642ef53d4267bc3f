//! Where a run is: which step, of which epoch, and what of the data comes next.

use super::{RunArgs, Schedule};
use burn_dist::Noise;
use burn_dist::Result;
use burn_dist::data::{Batches, Loader};

/// The steps of a run, of which so many are done. Everything else follows from that one number, so that it
/// is all that a save has to hold.
#[derive(Debug, Clone)]
pub struct Course {
    schedule: Schedule,
    /// Backward passes of a step.
    accumulate: usize,
    /// Steps of an epoch, and of the whole run.
    epoch: usize,
    steps: usize,
    done: usize,
    seed: u64,
    rank: u32,
}

impl Course {
    /// The course of a rank that has so many batches an epoch.
    pub(super) fn new(args: &RunArgs, rank: usize, batches: usize) -> Self {
        let epoch = batches.div_ceil(args.accumulate);
        let all = args.epochs * epoch;
        let steps = args.steps.map_or(all, |steps| steps.min(all));
        Self {
            schedule: args.schedule(steps),
            accumulate: args.accumulate,
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

    /// So many steps were done before this run.
    pub fn resume(&mut self, done: usize) {
        self.done = done;
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
        // In this order: a zip asks the first even when the second has nothing left, and drops what it got.
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
    use burn_dist::data::DistributedSampler;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        run: RunArgs,
    }

    /// Five batches an epoch, each a single number.
    fn course(args: &str) -> (Course, Loader<usize>) {
        let args = std::iter::once("run").chain(args.split_whitespace());
        let run = Only::parse_from(args).run;
        let sampler = DistributedSampler::new(5, 1).unwrap();
        let data = Loader::new((0..5).collect::<Vec<_>>(), sampler, |items, _| items[0]);
        (Course::new(&run, 3, 5), data.unwrap())
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
    fn a_step_takes_as_many_batches_as_are_accumulated_and_an_epoch_ends_with_what_is_left() {
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
    fn a_resumed_course_is_the_rest_of_the_whole_one() {
        let args = "--epochs 3 --accumulate 2 --steps 8";
        let (whole, data) = course(args);
        let all = steps(whole.clone(), &data);
        assert_eq!(all.len(), 8);
        for done in 0..=8 {
            let mut rest = whole.clone();
            rest.resume(done);
            assert_eq!(steps(rest, &data), all[done..], "after {done}");
        }
    }

    #[test]
    fn no_epochs_are_no_steps() {
        let (course, data) = course("--epochs 0");
        assert!(course.epoch(&data).unwrap().is_none());
        assert_eq!((course.steps(), course.epochs()), (0, 0));
    }
}
