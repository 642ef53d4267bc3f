//! The strategy's options.

use crate::saves::Saves;
use burn::optim::ModuleOptimizer;
use burn_dist::{GradScaler, Shadow, World};
use burn_train::{LearnerModel, TrainStep};
use std::fmt;
use std::path::Path;

/// Training of a sharded model by Burn's `Learner`, over all ranks of `world`.
///
/// [`training`](Sharded::training) makes Burn's builder with it; the [page of the crate](crate) has a program.
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
    pub(crate) resumes: bool,
    pub(crate) comparison: Option<Comparison<M>>,
}

/// A comparison of the first steps with one plain device.
pub(crate) struct Comparison<M: TrainStep> {
    pub(crate) shadow: Shadow,
    pub(crate) steps: usize,
    /// Copies a batch, which is used up by a step.
    pub(crate) copy: fn(&M::Input) -> M::Input,
}

impl<M: LearnerModel> Sharded<M> {
    /// The same, with gradients clipped by the norm of the whole model.
    ///
    /// Burn's own clipping is by tensor, and wrong on shards; [`World::optimizer`] refuses it.
    ///
    /// # Errors
    /// Training ends with [`Error::Config`](burn_dist::Error::Config) if `max_norm` is not a positive number, and with
    /// [`Error::NotFinite`](burn_dist::Error::NotFinite) if the norm is not finite.
    ///
    /// [`World::optimizer`]: burn_dist::World::optimizer
    pub fn clip(self, max_norm: f64) -> Self {
        let clip = Some(max_norm);
        Self { clip, ..self }
    }

    /// The same, with the loss scaled for f16. A step that overflows is skipped, the schedule's too.
    ///
    /// A run that goes on from a save has the scale of the save.
    ///
    /// # Cost
    /// One all-reduce of a byte a step.
    ///
    /// # Errors
    /// Training ends with [`Error::LossScale`](burn_dist::Error::LossScale) if gradients are not finite at any
    /// scale.
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
    /// `checkpoint(epoch)` of Burn's builder, where `epoch` is the number of epochs that are done, or with
    /// [`resume`](Self::resume). Burn's own checkpointers would write files of shards, and are refused. An
    /// early stopping strategy begins anew, as it does in Burn.
    ///
    /// # Cost
    /// Meanwhile a rank holds its shard of the parameters once more, and that of the optimizer's states twice.
    ///
    /// # Errors
    /// Training ends with the errors of [`World::save`](burn_dist::World::save), and with [`Error::File`](burn_dist::Error::File)
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
    /// Training ends with [`Error::Deviation`](burn_dist::Error::Deviation) at the first unit that deviates.
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
