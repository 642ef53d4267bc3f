//! The position of a run: its step, its epoch, and the data that comes next.

use crate::data::{Batches, DistributedSampler, Loader};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The steps of a run over a loader's epochs, and how many of them are done.
///
/// A save holds the samples seen and the steps done ([`progress`](Self::progress)), and neither depends on the number
/// of ranks: a run goes on with any number of ranks, batch size and accumulation ([`resume`](Self::resume)), and each
/// sample of the interrupted epoch comes once. The [module](super) has a whole loop.
///
/// # Source
/// Lightning: the fit loop's progress; PyTorch: `StatefulDataLoader`.
#[derive(Debug, Clone)]
#[must_use]
pub struct TrainLoop {
    /// What the ranks see in each batch.
    sampler: DistributedSampler,
    /// Backward passes of a step.
    accumulate: usize,
    epochs: usize,
    limit: Option<usize>,
    /// Within an epoch a step is left; at its end the next one has begun.
    at: Progress,
}

/// How far a run has come, whatever the ranks and the size of their batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are complete.
    epochs: usize,
    /// Samples of the next epoch that all ranks together have seen.
    seen: usize,
    /// Samples of the dataset, also those that [`drop_last`](crate::data::Batch::drop_last) leaves out.
    samples: usize,
    /// The seed of their order, if it is random.
    seed: Option<u64>,
    /// Steps of the optimizer, those of the complete epochs counted.
    steps: usize,
}

impl TrainLoop {
    /// One epoch of `data`, none of it done, one pass a step.
    pub fn new<B: Send + 'static>(data: &Loader<B>) -> Self {
        Self::over(data.sampler().clone())
    }

    fn over(sampler: DistributedSampler) -> Self {
        let at = Progress {
            epochs: 0,
            seen: 0,
            samples: sampler.len(),
            seed: sampler.seed(),
            steps: 0,
        };
        Self {
            sampler,
            accumulate: 1,
            epochs: 1,
            limit: None,
            at,
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

    /// Steps of an epoch from this sample on.
    fn steps_from(&self, seen: usize) -> usize {
        self.sampler.steps_from(seen).div_ceil(self.accumulate)
    }

    /// Steps of the whole run: those done, of whatever size they were, and those to come.
    pub fn steps(&self) -> usize {
        let to_come = match self.epochs.saturating_sub(self.at.epochs) {
            0 => 0,
            epochs => (epochs - 1)
                .saturating_mul(self.steps_from(0))
                .saturating_add(self.steps_from(self.at.seen)),
        };
        let all = self.at.steps.saturating_add(to_come);
        self.limit.map_or(all, |limit| limit.min(all))
    }

    /// Steps that are done, those before a save counted.
    pub fn done(&self) -> usize {
        self.at.steps
    }

    /// Whether no step is left.
    fn is_over(&self) -> bool {
        self.at.steps >= self.steps()
    }

    /// Epochs that are complete.
    pub fn epochs_done(&self) -> usize {
        self.at.epochs
    }

    /// Epochs that are done, or at least begun.
    pub fn epochs_begun(&self) -> usize {
        self.at.begun()
    }

    /// The part of a save that says how far the run has come.
    pub fn progress(&self) -> Progress {
        self.at.clone()
    }

    /// Resumes from a save, of a run on any number of ranks with any batch size and accumulation.
    ///
    /// The rest of the interrupted epoch is cut into batches of this run, the first of which begins with the sample
    /// after the last one seen: each sample of that epoch comes once, those before the save counted. Later epochs are
    /// cut as always. Steps are counted on from those done, so that a schedule of the learning rate by steps goes on;
    /// [`steps`](Self::steps) becomes what was done and what is to come.
    ///
    /// Under [`drop_last`](crate::data::Batch::drop_last) the rest leaves out the samples at its end that do not fill
    /// a batch of this run; if it has not a single full batch, the epoch counts as complete.
    ///
    /// Seed and data may differ from those of the save, if it is from the end of an epoch.
    ///
    /// ```
    /// use burn_dist::data::{Batch, Loader};
    /// use burn_dist::training::TrainLoop;
    ///
    /// let of = |batch| Loader::replicated((0..10).collect::<Vec<_>>(), batch, |items, _| items);
    /// let data = of(Batch::per_rank(4))?;
    /// let mut before = TrainLoop::new(&data);
    /// before.advance();
    ///
    /// let data = of(Batch::per_rank(3))?;
    /// let mut steps = TrainLoop::new(&data);
    /// steps.resume(&before.progress())?;
    /// assert_eq!((steps.done(), steps.steps()), (1, 3));
    /// let rest = steps.epoch(&data)?.into_iter().flatten().collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(rest, [[4, 5, 6], [7, 8, 9]]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] for another seed or other data within an epoch, for a save past the last step of this run,
    /// and for numbers that no run can have saved.
    pub fn resume(&mut self, saved: &Progress) -> Result<()> {
        saved.check()?;
        if saved.seen > 0 {
            saved.same(
                "the seed of the data's order",
                order,
                saved.seed,
                self.at.seed,
            )?;
            let samples = |n| format!("{n} samples");
            saved.same("the training data", samples, saved.samples, self.at.samples)?;
        }
        if saved.begun() > self.epochs || self.limit.is_some_and(|limit| saved.steps > limit) {
            let limit = self
                .limit
                .map(|limit| format!(" and at most {limit} step(s)"));
            let expected = format!(
                "one from within this run of {} epoch(s){} (raise the epochs or the limit of steps)",
                self.epochs,
                limit.unwrap_or_default()
            );
            return Err(Error::config(
                "the save to resume from",
                expected,
                saved.found(),
            ));
        }
        self.at = Progress {
            samples: self.at.samples,
            seed: self.at.seed,
            ..*saved
        };
        self.end_epoch();
        Ok(())
    }

    /// A step is done. Changes nothing after the last one.
    pub fn advance(&mut self) {
        if self.is_over() {
            return;
        }
        let each = self.sampler.global_batch().saturating_mul(self.accumulate);
        self.at.seen = self.at.seen.saturating_add(each);
        self.at.steps += 1;
        self.end_epoch();
    }

    /// Begins the next epoch if no step is left of this one.
    fn end_epoch(&mut self) {
        if self.steps_from(self.at.seen) == 0 {
            self.at.epochs += 1;
            self.at.seen = 0;
        }
    }

    /// The batches of the next step's epoch, without those of steps that are done; `None` at the end of
    /// the run.
    ///
    /// # Errors
    /// What the loader returns.
    pub fn epoch<B: Send + 'static>(&self, data: &Loader<B>) -> Result<Option<Batches<B>>> {
        if self.is_over() {
            return Ok(None);
        }
        data.resume(self.at.epochs as u64, self.at.seen).map(Some)
    }

    /// The next step's batches, one for each of its passes; `None` at the end of the epoch and of the run.
    ///
    /// # Errors
    /// What the dataset returns.
    pub fn step<B>(&self, batches: &mut Batches<B>) -> Result<Option<Vec<B>>> {
        if self.is_over() {
            return Ok(None);
        }
        let step = batches.take(self.accumulate).collect::<Result<Vec<_>>>()?;
        Ok((!step.is_empty()).then_some(step))
    }
}

impl Progress {
    /// Epochs that are complete, or at least begun.
    fn begun(&self) -> usize {
        self.epochs.saturating_add(usize::from(self.seen > 0))
    }

    /// Refuses numbers that no run can have saved.
    fn check(&self) -> Result<()> {
        let expected = if self.seen > 0 && self.seen >= self.samples {
            format!("fewer samples seen of an epoch than its {}", self.samples)
        } else if self.steps < self.begun() {
            "at least one step for each epoch".into()
        } else if self.steps.checked_add(self.samples).is_none() {
            format!("a number of steps below {}", usize::MAX - self.samples)
        } else {
            return Ok(());
        };
        let expected = format!("{expected} (the save is damaged: resume from another one)");
        Err(Error::config(
            "the save to resume from",
            expected,
            self.found(),
        ))
    }

    /// Refuses to go on within an epoch with other data or in another order.
    fn same<T: PartialEq>(
        &self,
        what: &str,
        name: impl Fn(T) -> String,
        saved: T,
        found: T,
    ) -> Result<()> {
        if saved == found {
            return Ok(());
        }
        let expected = format!(
            "{}, as {} of the {} samples of epoch {} have been seen",
            name(saved),
            self.seen,
            self.samples,
            self.begun()
        );
        Err(Error::config(what, expected, name(found)))
    }

    fn found(&self) -> String {
        let Self {
            epochs,
            seen,
            steps,
            ..
        } = self;
        format!("{epochs} complete epoch(s), {seen} samples of the next, {steps} step(s)")
    }
}

/// The name of an order.
fn order(seed: Option<u64>) -> String {
    seed.map_or("none (the order of the dataset)".into(), |seed| {
        seed.to_string()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
