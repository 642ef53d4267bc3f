//! The strategy as Burn's builder takes it: what it is given is checked, and a save is loaded, before the loop.

use crate::fit::{Fit, close};
use crate::raise::{closing, raise};
use crate::rank_output::RankOutput;
use crate::saves::Position;
use crate::sharded::Sharded;
use crate::silent::Silent;
use burn::data::dataloader::DataLoader;
use burn_dist::{Error, GradScaler, Result};
use burn_train::{
    AsyncProcessorTraining, InferenceStep, Learner, LearnerModel, LearningResult,
    SupervisedLearningStrategy, SupervisedTraining, SupervisedTrainingEventProcessor, TrainLoader,
    TrainStep, TrainingComponents, TrainingStrategy, ValidLoader,
};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// What must be alike on all ranks.
#[derive(Serialize)]
struct Options {
    epochs: usize,
    checkpoint: Option<usize>,
    accumulation: Option<usize>,
    early_stopping: bool,
    clip: Option<f64>,
    scaler: Option<GradScaler>,
    saves: bool,
    resumes: bool,
    shadowed_steps: usize,
}

impl<M: LearnerModel> Sharded<M>
where
    <M as TrainStep>::Output: RankOutput,
    <M as InferenceStep>::Output: RankOutput,
{
    /// Burn's builder of a training with this strategy, in the place of `SupervisedTraining::new`.
    ///
    /// Rank 0 has the renderer and the logs that Burn gives it; the other ranks are silent, and those that are
    /// processes write their `experiment.log` to `rank-1`, `rank-2` and so on in `directory`. Ranks that
    /// are threads share the log of rank 0.
    pub fn training(
        self,
        directory: impl AsRef<Path>,
        train: Arc<dyn DataLoader<<M as TrainStep>::Input>>,
        valid: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
    ) -> SupervisedTraining<M> {
        let (directory, world) = (directory.as_ref(), self.world.clone());
        let own = if world.is_chief() {
            directory.to_path_buf()
        } else {
            directory.join(format!("rank-{}", world.rank()))
        };
        let mut training = SupervisedTraining::new(own, train, valid);
        if !world.is_chief() {
            training = training.renderer(Box::new(Silent));
            training = training.with_metric_logger(Silent);
            if world.ranks_here() > 1 {
                training = training.with_application_logger(None);
            }
        }
        training.with_training_strategy(self.into())
    }

    /// Checks what Burn's builder was given, and makes the learner the one to go on with. Collective.
    fn begin(
        &self,
        learner: Learner<M>,
        components: &TrainingComponents<M>,
    ) -> Result<(Learner<M>, Position)> {
        let Self { world, saves, .. } = self;
        if components.checkpointer.is_some() {
            return Err(Error::config(
                "checkpointers of the training's builder",
                "none: a sharded model is saved by the strategy, `sharded(&world).save(folder, &optim)`",
                "some (with_default_checkpointers, with_custom_checkpointers)",
            ));
        }
        world.agree(
            "options of the training",
            &Options {
                epochs: components.num_epochs,
                checkpoint: components.checkpoint,
                accumulation: components.grad_accumulation,
                early_stopping: components.early_stopping.is_some(),
                clip: self.clip,
                scaler: self.scaler.clone(),
                saves: saves.is_some(),
                resumes: self.resumes,
                shadowed_steps: self.comparison.as_ref().map_or(0, |c| c.steps),
            },
        )?;
        let Some(saves) = saves else {
            return match (components.checkpoint, self.resumes) {
                (None, false) => Ok((learner, self.start())),
                _ => Err(Error::config(
                    "checkpoint(epoch) and resume()",
                    "with them `save(folder, &optim)` of the strategy, which says where the save is",
                    "no `save`",
                )),
            };
        };
        let resumes =
            components.checkpoint.is_some() || self.resumes && world.has_save(&saves.folder)?;
        saves.claim(world, &learner, resumes)?;
        if !resumes {
            return Ok((learner, self.start()));
        }
        let (learner, mut position) = saves.load(world, learner)?;
        // Whether the loss is scaled is this run's to say, and how much is the save's.
        let scaler = self.scaler.clone();
        position.scaler = scaler.map(|new| position.scaler.take().unwrap_or(new));
        match components.checkpoint {
            Some(epoch) if epoch != position.epoch => Err(Error::file(
                &saves.folder,
                format!("the save of epoch {epoch}, as checkpoint({epoch}) asks for"),
                format!("that of epoch {}; only the last is kept", position.epoch),
            )),
            _ => Ok((learner, position)),
        }
    }

    fn start(&self) -> Position {
        let scaler = self.scaler.clone();
        Position {
            scaler,
            ranks: self.world.size(),
            ..Position::default()
        }
    }
}

impl<M: LearnerModel> SupervisedLearningStrategy<M> for Sharded<M>
where
    <M as TrainStep>::Output: RankOutput,
    <M as InferenceStep>::Output: RankOutput,
{
    fn train(
        &self,
        learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
        mut components: TrainingComponents<M>,
    ) -> LearningResult<M> {
        if !self.world.is_chief() {
            // Metrics are rank 0's, and so is what is made of them.
            components.event_processor = AsyncProcessorTraining::new(Silent);
            components.summary = None;
        }
        let begin = |components: &mut TrainingComponents<M>| self.begin(learner, components);
        let (mut components, (learner, position)) = closing(components, begin, |components| {
            close(components.event_processor)
        });
        components.checkpoint = (position.epoch > 0).then_some(position.epoch);
        // What Burn does around every strategy.
        Fit::new(self, position).train(learner, train, valid, components)
    }

    fn fit(
        &self,
        components: TrainingComponents<M>,
        learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
        _: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        let (learner, position) = match self.begin(learner, &components) {
            Ok(found) => found,
            Err(error) => {
                close(components.event_processor);
                raise(error)
            }
        };
        let starting = position.epoch + 1;
        Fit::new(self, position).fit(components, learner, train, valid, starting)
    }
}

impl<M: LearnerModel> From<Sharded<M>> for TrainingStrategy<M>
where
    <M as TrainStep>::Output: RankOutput,
    <M as InferenceStep>::Output: RankOutput,
{
    /// For `with_training_strategy` of a builder that is not [`Sharded::training`]'s: ranks other than 0
    /// then need [`Silent`] as renderer and as metric logger, and directories of their own.
    fn from(strategy: Sharded<M>) -> Self {
        Self::Custom(Arc::new(strategy))
    }
}
