//! The loop: epochs, steps, validation, as Burn's for a single device, over all ranks.

use crate::feed::{Batch, Feed, Source, Turn};
use crate::gather::gather;
use crate::output::{self, StepLoss};
use crate::parts::Share;
use crate::raise::closing;
use crate::rank_output::RankOutput;
use crate::saves::Position;
use crate::sharded::Sharded;
use burn::data::dataloader::Progress;
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::{Accumulation, Error, Result, World};
use burn_train::metric::store::EventStoreClient;
use burn_train::{
    CloneEarlyStoppingStrategy, EventProcessorTraining, InferenceStep, Interrupter, Learner,
    LearnerEvent, LearnerModel, SupervisedLearningStrategy, SupervisedTrainingEventProcessor,
    TrainLoader, TrainStep, TrainingComponents, TrainingItem, ValidLoader,
};
use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A strategy that is about to begin, or to go on from a position.
pub(crate) struct Fit<'a, M: TrainStep> {
    options: &'a Sharded<M>,
    position: Position,
}

/// A training that is going on.
struct Running<'a, M: LearnerModel> {
    options: &'a Sharded<M>,
    world: &'a World,
    learner: Learner<M>,
    position: Position,
    /// Backward passes of a step.
    accumulation: usize,
    interrupter: Interrupter,
    store: Arc<EventStoreClient>,
    /// Steps that are still to be compared with one plain device.
    to_compare: usize,
}

/// A backward pass that has run.
struct Passed<O> {
    output: O,
    share: Share,
    /// Which of the epoch it was, from 1.
    number: usize,
}

/// The last event processor of a run that fails: its renderer restores the terminal when it goes.
pub(crate) fn close<T: Send, V: Send>(events: impl EventProcessorTraining<T, V>) {
    // It panics if its thread has failed; then that failure is what goes on.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(events.renderer())));
    // Burn's dashboard leaves the cursor hidden where its own thread has panicked.
    let mut out = io::stdout();
    if out.is_terminal() {
        let _ = out.write_all(b"\x1b[?25h").and_then(|()| out.flush());
    }
}

impl<'a, M: TrainStep> Fit<'a, M> {
    pub(crate) fn new(options: &'a Sharded<M>, position: Position) -> Self {
        Self { options, position }
    }
}

impl<M: LearnerModel> SupervisedLearningStrategy<M> for Fit<'_, M>
where
    <M as TrainStep>::Output: RankOutput,
    <M as InferenceStep>::Output: RankOutput,
{
    fn fit(
        &self,
        components: TrainingComponents<M>,
        learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
        _: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        let comparison = self.options.comparison.as_ref();
        let mut running = Running {
            options: self.options,
            world: &self.options.world,
            learner,
            position: self.position.clone(),
            accumulation: components.grad_accumulation.unwrap_or(1),
            interrupter: components.interrupter,
            store: components.event_store,
            to_compare: comparison.map_or(0, |comparison| comparison.steps),
        };
        let (epochs, early_stopping) = (components.num_epochs, components.early_stopping);
        let run = |events: &mut SupervisedTrainingEventProcessor<M>| {
            running.epochs(epochs, &train, &valid, early_stopping, events)?;
            Ok(running.learner.model())
        };
        let (events, model) = closing(components.event_processor, run, close);
        (model, events)
    }
}

impl<M: LearnerModel> Running<'_, M>
where
    <M as TrainStep>::Output: RankOutput,
    <M as InferenceStep>::Output: RankOutput,
{
    fn epochs(
        &mut self,
        epochs: usize,
        train: &TrainLoader<M>,
        valid: &ValidLoader<M>,
        mut early_stopping: Option<Box<dyn CloneEarlyStoppingStrategy>>,
        events: &mut SupervisedTrainingEventProcessor<M>,
    ) -> Result<()> {
        let device = self.world.device();
        let train = Source::new("training data", self.world, train, &device)?;
        let device = device.without_autodiff();
        let valid = Source::new("validation data", self.world, valid, &device)?;
        if train.items() == 0 {
            return Err(Error::config("training data", "at least one item", 0));
        }
        for _ in 0..self.position.epoch {
            train.pass_over();
            valid.pass_over();
        }
        while self.position.epoch < epochs {
            let epoch = self.position.epoch + 1;
            let mut stops = self.train(&train, events)?;
            if !stops {
                stops = self.validate(&valid, events)?;
            }
            if stops {
                log::info!(
                    "stopped in epoch {epoch}: {:?}",
                    self.interrupter.get_message()
                );
                self.note(events.flush());
                self.check_metrics()?;
                return self.save();
            }
            self.note(events.process_train(LearnerEvent::EndEpoch(epoch)));
            self.note(events.flush());
            self.check_metrics()?;
            self.position.epoch = epoch;
            (self.position.steps, self.position.items) = (0, 0);
            self.save()?;
            if self.stops_early(epoch, &mut early_stopping)? {
                break;
            }
        }
        Ok(())
    }

    /// The rest of an epoch; true if it was stopped.
    fn train(
        &mut self,
        source: &Source<<M as TrainStep>::Input>,
        events: &mut SupervisedTrainingEventProcessor<M>,
    ) -> Result<bool> {
        let (world, interrupter) = (self.world, self.interrupter.clone());
        let mut feed = source.feed(world, &interrupter);
        feed.skip(self.position.steps)?;
        // A run that stopped between the last step and validation has nothing for the metrics.
        if !feed.has_more()? {
            return Ok(matches!(feed.next()?, Turn::Stop));
        }
        let start = split(self.position.epoch + 1, source.items());
        self.note(events.process_train(start));
        let stops = loop {
            match feed.next()? {
                Turn::Step(batch) => self.step(batch, &mut feed, source.items(), events)?,
                Turn::End => break false,
                Turn::Stop => break true,
            }
        };
        let end = LearnerEvent::EndSplit(self.position.epoch + 1);
        self.note(events.process_train(end));
        Ok(stops)
    }

    /// A step of the optimizer, which begins with `first`.
    fn step(
        &mut self,
        first: Batch<<M as TrainStep>::Input>,
        feed: &mut Feed<'_, <M as TrainStep>::Input>,
        items: usize,
        events: &mut SupervisedTrainingEventProcessor<M>,
    ) -> Result<()> {
        self.compare(&first)?;
        let (world, model) = (self.world, self.learner.model());
        let mut gradients = world.accumulate(&model)?;
        let (mut passes, mut batch) = (0, first);
        let last = loop {
            passes += 1;
            // Who accumulates must know before the pass whether it is the last one.
            let is_last = passes == self.accumulation || !feed.has_more()?;
            if is_last {
                gradients.set_is_last();
            }
            let passed = self.pass(batch, &mut gradients)?;
            if is_last {
                break passed;
            }
            self.report(passed, items, events)?;
            batch = match feed.next()? {
                Turn::Step(batch) => batch,
                Turn::End | Turn::Stop => {
                    let expected = "the batch that all ranks had agreed on";
                    return Err(Error::config("training data", expected, "none"));
                }
            };
        };
        let mut gradients = gradients.finish()?;
        drop(model);
        if passes > 1 {
            // Burn's accumulated gradients are a sum, not a mean.
            gradients = gradients.scaled(passes as f64);
        }
        let gradients = match &mut self.position.scaler {
            Some(scaler) => scaler.unscale(gradients)?,
            None => Some(gradients),
        };
        if let Some(gradients) = gradients {
            let gradients = match self.options.clip {
                Some(max_norm) => gradients.clip_norm(max_norm)?.grads,
                None => gradients.into_params(),
            };
            self.learner.lr_step();
            self.learner.optimizer_step(gradients);
        }
        self.report(last, items, events)
    }

    /// A forward and a backward pass.
    fn pass(
        &mut self,
        batch: Batch<<M as TrainStep>::Input>,
        gradients: &mut Accumulation<'_, M>,
    ) -> Result<Passed<<M as TrainStep>::Output>> {
        let learner = &self.learner;
        let stepped = output::step(|| learner.train_step(batch.item));
        let (stepped, loss) = stepped.map_err(own_backward)?;
        let output = stepped.item;
        let Some(StepLoss { loss, weight }) = loss else {
            return Err(no_loss());
        };
        let share = Share::new(output.samples(), weight, batch.is_padding)?;
        let factor = self.factor(share.weight)?;
        let loss = if factor == 1.0 { loss } else { loss * factor };
        let loss = match &self.position.scaler {
            Some(scaler) => scaler.scale(loss),
            None => loss,
        };
        gradients.add(loss)?;
        self.position.steps += 1;
        Ok(Passed {
            output,
            share,
            number: self.position.steps,
        })
    }

    /// What a rank's mean is multiplied by, so that the mean over ranks is the mean over all: 1 where all
    /// ranks have the same weight. Collective.
    fn factor(&self, weight: f64) -> Result<f64> {
        let mut all = [weight];
        let label = "samples of the step".into();
        let sum = SpanMut::of(&mut all);
        self.world.comm().all_reduce(&label, Reduce::Sum, sum)?;
        if all[0] > 0.0 {
            Ok(weight * self.world.size() as f64 / all[0])
        } else {
            let expected = "more than 0 on all ranks together";
            Err(Error::config(
                "samples of the step, or its count",
                expected,
                all[0],
            ))
        }
    }

    /// Shows the output of a pass to the metrics. Collective.
    fn report(
        &mut self,
        passed: Passed<<M as TrainStep>::Output>,
        items: usize,
        events: &mut SupervisedTrainingEventProcessor<M>,
    ) -> Result<()> {
        if let Some((output, samples)) = gather(self.world, passed.output, passed.share)? {
            self.position.items += samples;
            let progress = progress(self.position.items, items);
            let lr = Some(self.learner.lr_current());
            let item = TrainingItem::new(output, progress, Some(passed.number), lr);
            self.note(events.process_train(LearnerEvent::ProcessedItem(item)));
        }
        Ok(())
    }

    /// A validation of the model; true if it was stopped.
    fn validate(
        &self,
        source: &Source<<M as InferenceStep>::Input>,
        events: &mut SupervisedTrainingEventProcessor<M>,
    ) -> Result<bool> {
        let model = self.learner.model().valid();
        let mut feed = source.feed(self.world, &self.interrupter);
        let (mut steps, mut items) = (0, 0);
        let start = split(self.position.epoch + 1, source.items());
        self.note(events.process_valid(start));
        let stops = loop {
            let Batch { item, is_padding } = match feed.next()? {
                Turn::Step(batch) => batch,
                Turn::End => break false,
                Turn::Stop => break true,
            };
            steps += 1;
            let output = self.world.run(|| InferenceStep::step(&model, item))?;
            let share = Share::new(output.samples(), output.samples() as f64, is_padding)?;
            if let Some((output, samples)) = gather(self.world, output, share)? {
                items += samples;
                let progress = progress(items, source.items());
                let item = TrainingItem::new(output, progress, Some(steps), None);
                self.note(events.process_valid(LearnerEvent::ProcessedItem(item)));
            }
        };
        let end = LearnerEvent::EndSplit(self.position.epoch + 1);
        self.note(events.process_valid(end));
        Ok(stops)
    }

    /// The step with one plain device beside it, in the first steps if that was asked for. Collective.
    fn compare(&mut self, batch: &Batch<<M as TrainStep>::Input>) -> Result<()> {
        let Some(comparison) = &self.options.comparison else {
            return Ok(());
        };
        if self.to_compare == 0 {
            return Ok(());
        }
        self.to_compare -= 1;
        let mut shadow = comparison.shadow.step(self.position.steps);
        if let Some(scaler) = &self.position.scaler {
            shadow = shadow.loss_scale(scaler.current_scale());
        }
        let model = self.learner.model();
        let compared = self.world.shadow(&model, shadow, 1, |model, _| {
            let item = (comparison.copy)(&batch.item);
            let stepped = output::step(|| TrainStep::step(model, item));
            let stepped = stepped.map_err(own_backward);
            let given = stepped.and_then(|(stepped, loss)| {
                let StepLoss { loss, weight } = loss.ok_or_else(no_loss)?;
                let samples = stepped.item.samples();
                Ok((Share::new(samples, weight, batch.is_padding)?, loss))
            });
            let (share, loss) = crate::raise::or_raise(given);
            (loss * share.samples as f64, share.samples)
        })?;
        log::info!(
            "step {}: {} units as on one plain device, within {:.1e}",
            self.position.steps,
            compared.units,
            compared.worst
        );
        Ok(())
    }

    /// Saves, if that was asked for. Collective.
    fn save(&self) -> Result<()> {
        match &self.options.saves {
            Some(saves) => saves.save(self.world, &self.learner, &self.store, &self.position),
            None => Ok(()),
        }
    }

    /// What rank 0's metrics say to stopping before the last epoch, for all ranks. Collective.
    fn stops_early(
        &self,
        epoch: usize,
        strategy: &mut Option<Box<dyn CloneEarlyStoppingStrategy>>,
    ) -> Result<bool> {
        let Some(strategy) = strategy else {
            return Ok(false);
        };
        let stops = self.world.is_chief() && strategy.should_stop(epoch, &self.store);
        let mut decided = [u8::from(stops)];
        let label = "early stopping".into();
        let byte = SpanMut::of(&mut decided);
        self.world.comm().broadcast(&label, 0, byte)?;
        Ok(decided[0] != 0)
    }

    /// Notes an error of the metrics, which ends the run on all ranks at the next step.
    fn note<E: Into<burn_train::TrainingError>>(&self, result: std::result::Result<(), E>) {
        self.interrupter.fail_on_error(result);
    }

    fn check_metrics(&self) -> Result<()> {
        self.interrupter
            .error()
            .map_or(Ok(()), |e| Err(Error::user(e)))
    }
}

/// The beginning of the training, or of the validation, of an epoch.
fn split<T>(epoch_number: usize, total_items: usize) -> LearnerEvent<T> {
    LearnerEvent::StartSplit {
        epoch_number,
        total_items,
    }
}

fn progress(done: usize, items: usize) -> Progress {
    Progress::new(done, items, Some("items".into()))
}

fn no_loss() -> Error {
    Error::config(
        "the training step",
        "its loss, by `burn_dist_train::output(self, loss, item)` in the place of `TrainOutput::new`",
        "none",
    )
}

/// Says what to do about a `loss.backward()` in a step of a `Learner`.
fn own_backward(error: Error) -> Error {
    match error {
        Error::Model { path, problem, .. } if problem.contains("loss.backward()") => Error::Model {
            path,
            problem,
            remedy:
                "return burn_dist_train::output(self, loss, item) from the training step, in the \
                     place of TrainOutput::new(self, loss.backward(), item)"
                    .into(),
        },
        other => other,
    }
}
