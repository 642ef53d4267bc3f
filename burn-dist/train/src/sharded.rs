//! The strategy and its options, and the builder of Burn's training that has them.

use crate::fit::{Fit, close};
use crate::raise::{closing, raise};
use crate::rank_output::RankOutput;
use crate::saves::{Position, Saves};
use crate::silent::Silent;
use burn::data::dataloader::DataLoader;
use burn::optim::ModuleOptimizer;
use burn_dist::{Error, GradScaler, Result, Shadow, World};
use burn_train::{
    AsyncProcessorTraining, InferenceStep, Learner, LearnerModel, LearningResult,
    SupervisedLearningStrategy, SupervisedTraining, SupervisedTrainingEventProcessor, TrainLoader,
    TrainStep, TrainingComponents, TrainingStrategy, ValidLoader,
};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Training of a sharded model by Burn's `Learner`, over all ranks of `world`.
///
/// [`training`](Sharded::training) makes Burn's builder with it.
pub fn sharded<M: LearnerModel>(world: &World) -> Sharded<M> {
    Sharded {
        world: world.clone(),
        clip: None,
        scaler: None,
        saves: None,
        resumes: false,
        comparison: None,
    }
}

/// A strategy of Burn's `Learner` in which every rank has a part of the model and a part of the data.
///
/// Every rank runs the same program: it shards its model, makes its optimizer with
/// [`World::optimizer`](burn_dist::World::optimizer), and launches a `Learner`. A step is one of
/// `batch size` times `ranks` samples; gradients, losses and metrics are those of one device that has all
/// of them, also where ranks have different numbers of samples. Metrics and the dashboard run on rank 0.
///
/// # Data
/// Any of Burn's data loaders, which each rank slices: shuffling then happens inside of a rank's part. With
/// [`RankLoader`](crate::RankLoader) batches are those of one device, whatever the number of ranks.
///
/// # Cost
/// Beside the collectives of the model's own strategy, three all-reduces of at most 8 bytes a step, and two
/// all-gathers of the outputs, which go through the memory of the host.
///
/// # Errors
/// `launch` of Burn's builder returns none, so an error leaves it by unwinding, on all ranks, to
/// [`Launch::run`](burn_dist::launch::Launch::run), which returns it; the terminal is restored before.
///
/// # Source
/// Burn: `ExecutionStrategy::ddp`. PyTorch: Lightning's `FSDPStrategy`.
pub struct Sharded<M: TrainStep> {
    pub(crate) world: World,
    pub(crate) clip: Option<f64>,
    pub(crate) scaler: Option<GradScaler>,
    pub(crate) saves: Option<Saves>,
    resumes: bool,
    pub(crate) comparison: Option<Comparison<M>>,
}

/// A comparison of the first steps with one plain device.
pub(crate) struct Comparison<M: TrainStep> {
    pub(crate) shadow: Shadow,
    pub(crate) steps: usize,
    /// Copies a batch, which is used up by a step.
    pub(crate) copy: fn(&M::Input) -> M::Input,
}

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

impl<M: LearnerModel> Sharded<M> {
    /// The same, with gradients clipped by the norm of the whole model.
    ///
    /// Burn's own clipping is by tensor, and wrong on shards; [`World::optimizer`] refuses it.
    ///
    /// # Errors
    /// Training ends with [`Error::Config`] if `max_norm` is not a positive number, and with
    /// [`Error::NotFinite`] if the norm is not finite.
    ///
    /// [`World::optimizer`]: burn_dist::World::optimizer
    pub fn clip(self, max_norm: f64) -> Self {
        let clip = Some(max_norm);
        Self { clip, ..self }
    }

    /// The same, with the loss scaled for f16. A step that overflows is skipped, the schedule's too.
    pub fn loss_scaling(self, scaler: GradScaler) -> Self {
        let scaler = Some(scaler);
        Self { scaler, ..self }
    }

    /// The same, saved to `folder` after every epoch, and where training is told to stop; the last save is
    /// kept.
    ///
    /// `optimizer` is the one that the `Learner` gets, which shows nobody its settings: give it before.
    /// A save holds the model, the states of the optimizer, the schedule, the loss scale, and how far the
    /// run has come; [`World::save`](burn_dist::World::save) tells its form. A run goes on from it with
    /// `checkpoint(epoch)` of Burn's builder, or with [`resume`](Self::resume). Burn's own checkpointers
    /// would write files of shards, and are refused.
    ///
    /// # Cost
    /// Meanwhile a rank holds its shard of the parameters once more, and that of the optimizer's states twice.
    ///
    /// # Errors
    /// Training ends with the errors of [`World::save`](burn_dist::World::save), and with [`Error::File`]
    /// before it begins if the folder holds the save of another run.
    pub fn save(self, folder: impl AsRef<Path>, optimizer: &ModuleOptimizer) -> Self {
        let saves = Saves {
            folder: folder.as_ref().into(),
            optimizer: optimizer.clone(),
        };
        Self {
            saves: Some(saves),
            ..self
        }
    }

    /// The same, going on from the last save in the folder if there is one.
    ///
    /// For programs that a scheduler or `--max-restarts` starts again. Batches of the epoch that was
    /// interrupted are read again and passed over.
    pub fn resume(self) -> Self {
        Self {
            resumes: true,
            ..self
        }
    }

    /// The same, with the first `steps` steps compared with one plain device, unit by unit.
    ///
    /// # Cost
    /// In those steps, that of [`World::shadow`](burn_dist::World::shadow): two steps more, and a whole
    /// model with its gradients on every rank.
    ///
    /// # Errors
    /// Training ends with [`Error::Deviation`] at the first unit that deviates.
    pub fn shadow(self, shadow: Shadow, steps: usize) -> Self
    where
        <M as TrainStep>::Input: Clone,
    {
        let copy = <M as TrainStep>::Input::clone;
        let comparison = Some(Comparison {
            shadow,
            steps,
            copy,
        });
        Self { comparison, ..self }
    }
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
        let (learner, position) = saves.load(world, learner)?;
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

impl<M: TrainStep> fmt::Debug for Sharded<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharded")
            .field("world", &self.world)
            .field("clip", &self.clip)
            .field("scaler", &self.scaler)
            .field("folder", &self.saves.as_ref().map(|saves| &saves.folder))
            .field("resumes", &self.resumes)
            .finish_non_exhaustive()
    }
}
