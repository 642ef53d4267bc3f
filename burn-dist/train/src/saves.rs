//! Saves of a `Learner`, in the form of [`World::save`](burn_dist::World::save).
//!
//! `Learner` gives nobody its optimizer or its schedule: both leave it only as records, through a
//! `LearningCheckpointer`. So a save makes one of its own, whose checkpointers keep the records in memory.

use burn::optim::lr_scheduler::LrSchedulerRecord;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use burn_dist::shard::records_of_shards;
use burn_dist::{Error, GradScaler, Result, World};
use burn_train::checkpoint::{
    AsyncCheckpointer, Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction,
    CheckpointingStrategy,
};
use burn_train::metric::store::EventStoreClient;
use burn_train::{Learner, LearnerModel, LearningCheckpointer};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a run is saved.
#[derive(Clone)]
pub(crate) struct Saves {
    pub(crate) folder: PathBuf,
    /// The optimizer as it was made: `Learner` tells no settings.
    pub(crate) optimizer: ModuleOptimizer,
}

/// How far a run has come; a save holds it beside model and optimizer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Epochs that are done.
    pub(crate) epoch: usize,
    /// Steps of the data loader that are done in the next one.
    pub(crate) steps: usize,
    /// Items of all ranks in those steps.
    pub(crate) items: usize,
    /// Ranks that have made them.
    pub(crate) ranks: usize,
    pub(crate) scaler: Option<GradScaler>,
}

/// The program's part of a save.
#[derive(Serialize, Deserialize)]
struct State {
    position: Position,
    /// The record of the learning rate's schedule, in hexadecimal: JSON has no bytes.
    schedule: String,
}

impl Position {
    /// The position of the save in `folder`, for a run on so many ranks.
    ///
    /// Within an epoch they must be as many as before. Burn's loaders give each rank one part of the items, so the
    /// items that are left of an epoch are the rests of those parts, which no other number of ranks can ask for.
    fn on_ranks(self, ranks: usize, folder: &Path) -> Result<Self> {
        let Self { epoch, steps, .. } = self;
        if steps > 0 && self.ranks != ranks {
            let (before, epoch) = (self.ranks, epoch.saturating_add(1));
            let expected = format!(
                "a save from the end of an epoch, as the ranks change from {before} to {ranks} (end \
                 epoch {epoch} on {before} ranks first)"
            );
            let found = format!("one from within epoch {epoch}");
            return Err(Error::file(folder, expected, found));
        }
        Ok(Self { ranks, ..self })
    }
}

impl Saves {
    /// Fails if the folder cannot take saves of this run, or the optimizer is wrong on shards; `resumes` says whether it begins with one.
    /// Collective.
    pub(crate) fn claim<M: LearnerModel>(
        &self,
        world: &World,
        learner: &Learner<M>,
        resumes: bool,
    ) -> Result<()> {
        world.optimizer(self.optimizer.clone(), &learner.model())?;
        world.claim_saves(&self.folder)?;
        if !resumes && world.has_save(&self.folder)? {
            let expected = "no save, as this run begins anew (go on with `checkpoint(epoch)` of the \
                            builder or `resume()` of the strategy, or give another folder)";
            return Err(Error::file(&self.folder, expected, "one"));
        }
        Ok(())
    }

    /// What a save holds, put into `learner`. Collective.
    pub(crate) fn load<M: LearnerModel>(
        &self,
        world: &World,
        mut learner: Learner<M>,
    ) -> Result<(Learner<M>, Position)> {
        let (model, optimizer, state): (M, _, State) =
            world.load(&self.folder, learner.model(), self.optimizer.clone())?;
        let damaged = |e: &dyn Display| Error::file(&self.folder, "a schedule's record", e);
        let bytes = from_hex(&state.schedule).ok_or_else(|| damaged(&"no hexadecimal digits"))?;
        let schedule = LrSchedulerRecord::from_bytes(Bytes::from_bytes_vec(bytes));
        let schedule = schedule.map_err(|e| damaged(&e))?;
        records_of_shards(|| learner.load_model(model.into_record()));
        learner.load_optim(optimizer.to_record());
        learner.load_scheduler(schedule);
        let position = state.position.on_ranks(world.size(), &self.folder)?;
        Ok((learner, position))
    }

    /// Saves `learner`, over the save before. Collective.
    pub(crate) fn save<M: LearnerModel>(
        &self,
        world: &World,
        learner: &Learner<M>,
        store: &EventStoreClient,
        position: &Position,
    ) -> Result<()> {
        let (optimizer, schedule) = records(learner, store)?;
        let schedule = schedule
            .into_bytes()
            .map_err(|e| Error::config("schedule of the learning rate", "a record", e))?;
        let schedule = schedule.iter().map(|byte| format!("{byte:02x}")).collect();
        let states = optimizer.len();
        let optimizer = self.optimizer.clone().load_record(optimizer);
        // Burn leaves out a state that is another optimizer's.
        let kept = optimizer.to_record().len();
        if kept != states {
            return Err(Error::config(
                "optimizer given to `save(folder, &optim)`",
                format!("the one of the Learner, which has {states} states"),
                format!("one that keeps {kept} of them"),
            ));
        }
        let position = position.clone();
        let state = State { position, schedule };
        world.save(&self.folder, &learner.model(), &optimizer, &state)
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}

/// The records of the optimizer and of the schedule.
fn records<M: LearnerModel>(
    learner: &Learner<M>,
    store: &EventStoreClient,
) -> Result<(OptimizerRecord, LrSchedulerRecord)> {
    let (optimizer, schedule) = (Slot::default(), Slot::default());
    let mut checkpointer = LearningCheckpointer::<M>::new(
        AsyncCheckpointer::new(Discard),
        AsyncCheckpointer::new(optimizer.clone()),
        AsyncCheckpointer::new(schedule.clone()),
        Box::new(Always),
    );
    records_of_shards(|| checkpointer.checkpoint(learner, 0, store));
    // Its threads have kept the records when they have ended.
    drop(checkpointer);
    match (optimizer.take(), schedule.take()) {
        (Some(optimizer), Some(schedule)) => Ok((optimizer, schedule)),
        _ => Err(Error::config(
            "the learner",
            "records of its optimizer and its schedule",
            "none",
        )),
    }
}

/// Keeps the last record in memory.
struct Slot<R>(Arc<Mutex<Option<R>>>);

impl<R> Slot<R> {
    fn take(&self) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<R> Default for Slot<R> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<R> Clone for Slot<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Checkpoint> Checkpointer<R> for Slot<R> {
    fn save(&self, _: usize, record: R) -> std::result::Result<(), CheckpointerError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
        Ok(())
    }

    fn delete(&self, _: usize) -> std::result::Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, _: usize) -> std::result::Result<R, CheckpointerError> {
        let message = "records in memory are not restored";
        Err(CheckpointerError::Unknown(message.into()))
    }
}

/// For the model, whose shards `World::save` writes.
struct Discard;

impl Checkpointer<ModuleRecord> for Discard {
    fn save(&self, _: usize, _: ModuleRecord) -> std::result::Result<(), CheckpointerError> {
        Ok(())
    }

    fn delete(&self, _: usize) -> std::result::Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, _: usize) -> std::result::Result<ModuleRecord, CheckpointerError> {
        let message = "nothing was kept";
        Err(CheckpointerError::Unknown(message.into()))
    }
}

/// Saves whenever it is asked.
struct Always;

impl CheckpointingStrategy for Always {
    fn checkpointing(&mut self, _: usize, _: &EventStoreClient) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_from_the_end_of_an_epoch_do_other_ranks_go_on() {
        let saved = |steps| Position {
            epoch: 2,
            steps,
            ranks: 3,
            ..Position::default()
        };
        let on = |steps, ranks| saved(steps).on_ranks(ranks, Path::new("run"));
        assert_eq!(on(5, 3).unwrap(), saved(5));
        assert_eq!(on(0, 2).unwrap().ranks, 2);
        assert_eq!(
            on(5, 2).unwrap_err().to_string(),
            "run: expected a save from the end of an epoch, as the ranks change from 3 to 2 (end epoch 3 \
             on 3 ranks first), found one from within epoch 3"
        );
    }
}
