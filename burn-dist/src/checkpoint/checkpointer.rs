//! The saves of a run: written in the background, and kept as told.

use super::job::Job;
use super::save::Save;
use super::shared_folder::warn_of_private_folders;
use super::storage::Keep;
use super::writer::Writer;
use crate::comm::{Reduce, SpanMut};
use crate::error::{Error, Result};
use crate::unwind::catch_all;
use crate::world::World;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// What becomes of a save while the one before is still being written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Busy {
    /// It waits.
    #[default]
    Wait,
    /// It is left out.
    Skip,
}

/// The saves of a run to one folder.
///
/// A handle: all of one folder and world share what is being written and what is kept. Ranks wait for the slowest
/// to have written its file, no longer than a collective may ([`deadline`](crate::launch::Launch::deadline)).
///
/// ```
/// use burn::{nn::LinearConfig, optim::AdamWConfig};
/// use burn_dist::checkpoint::{Keep, Save};
/// use burn_dist::prelude::*;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// Threads::new(2).run(|world| {
///     let layer = LinearConfig::new(8, 4).init(&world.device());
///     let layer = Strategy::fsdp().shard(layer, &world)?;
///     let optim = world.optimizer(AdamWConfig::new().init(), &layer)?;
///     let mut saves = world.checkpointer(folder)?.keep(Keep::last(2)?);
///     for step in [10, 20, 30] {
///         // Training goes on while this is written.
///         saves.save_in_background(Save::new(step).model("model", &layer, &optim))?;
///     }
///     assert_eq!(saves.wait()?, Some(30));
///     Ok(())
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `torch.distributed.checkpoint.async_save`; torchtitan: `CheckpointManager`.
#[derive(Debug)]
pub struct Checkpointer {
    world: World,
    writer: Arc<Writer>,
    busy: Busy,
}

impl World {
    /// The saves to a folder, which belongs to this run from now on ([`claim_saves`](Self::claim_saves)). Collective.
    ///
    /// # Errors
    /// As [`claim_saves`](Self::claim_saves).
    pub fn checkpointer(&self, folder: impl AsRef<Path>) -> Result<Checkpointer> {
        self.claim_saves(folder.as_ref())?;
        Checkpointer::unclaimed(self, folder.as_ref())
    }

    /// Makes this world the only one that saves to a folder, from now until its run ends.
    ///
    /// [`save`](Self::save) does so itself; called before training starts, it lets the second of two runs
    /// fail before it has computed anything. Makes the folder if need be. Collective.
    ///
    /// Rank 0 locks the file `lock` in it with `flock`. The lock ends with the run, or with the process, however that ends,
    /// so that a run that was killed can be started again at once; one that is just ending is waited
    /// for, up to five seconds. Over NFS the lock holds between hosts where the server runs its lock
    /// service; where a file system knows no locks, this is a warning. An object store is read here, and held from the
    /// first save on. So is a folder of which another host has one
    /// of its own: a save needs the files of all.
    ///
    /// # Errors
    /// [`Error::File`] if another run saves there, with its host and process, or if the folder cannot be
    /// written to. What fails on rank 0 fails on all.
    ///
    /// ```
    /// use burn_dist::launch::Threads;
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// let folder = folder.path().join("run");
    /// Threads::new(2).run(|world| {
    ///     world.claim_saves(&folder)?;
    ///     assert!(!world.has_save(&folder)?);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn claim_saves(&self, folder: impl AsRef<Path>) -> Result<()> {
        let writer = Writer::of(self, folder.as_ref())?;
        let claimed = self.together("claim the folder for saves", || {
            let storage = &*writer.storage;
            if self.is_chief() && storage.is_shared() {
                // The first save holds it, once it is sure that the saves there are this run's.
                writer.claim().reach(storage)?;
                return Ok([0; 2]);
            }
            let is_first = self.is_chief() && writer.claim().hold(storage)?;
            Ok([u64::from(is_first), 0])
        })?;
        match claimed[0][0] {
            0 => Ok(()),
            _ => warn_of_private_folders(self, writer.storage.path()),
        }
    }
}

impl Checkpointer {
    /// The saves to a folder that the first save claims.
    pub(super) fn unclaimed(world: &World, folder: &Path) -> Result<Self> {
        Ok(Self {
            world: world.clone(),
            writer: Writer::of(world, folder)?,
            busy: Busy::default(),
        })
    }

    /// The same, keeping these saves instead of the last one.
    #[must_use]
    pub fn keep(self, keep: Keep) -> Self {
        *self.writer.keep() = keep;
        self
    }

    /// The same, where a save in the background does so while another one is being written; without this it waits.
    #[must_use]
    pub fn when_busy(self, busy: Busy) -> Self {
        Self { busy, ..self }
    }

    /// Saves, and returns when the save is durable: a power cut cannot lose it. Collective.
    ///
    /// # Errors
    /// As [`World::save`]; and what a save in the background before has failed with.
    pub fn save(&mut self, save: Save<'_>) -> Result<()> {
        let job = self.job(save)?;
        job.run_and_note(self.world.comm())
    }

    /// Saves the parts as they are now, in the background; false if the save was left out ([`Busy::Skip`]).
    /// Collective.
    ///
    /// It is durable when [`durable`](Self::durable) says so. Leaving the world waits for it.
    ///
    /// # Cost
    /// In the memory of the process nothing is copied: what the next step changes it writes to new memory, at most
    /// this rank's shard of models and optimizer states once more, until the save is written. From a GPU
    /// the shard is copied to the host first.
    ///
    /// # Errors
    /// What is wrong with the parts. What goes wrong in writing is returned on every rank by the next call, or at the
    /// end of the run; the saves before it are untouched.
    pub fn save_in_background(&mut self, save: Save<'_>) -> Result<bool> {
        if self.busy == Busy::Skip && self.is_busy()? {
            return Ok(false);
        }
        let mut job = self.job(save)?;
        let held = job.taken.snapshots.iter_mut().try_for_each(|s| s.hold());
        let comm = self.world.comm();
        self.world
            .together("copy what is saved", || held.map(|()| [0; 2]))?;
        let mut background = self.writer.background();
        let group = match &background.group {
            Some(group) => group.clone(),
            // Collectives of its own, beside those of training.
            None => Arc::new(comm.split(0, comm.rank())?),
        };
        background.group = Some(group.clone());
        let rank = comm.rank();
        let running = std::thread::Builder::new()
            .name(format!("rank {rank} save"))
            .spawn(move || catch_all(rank, || job.run_and_note(&group)))
            .map_err(|e| Error::config("thread for saving", "a new thread", e));
        let (started, running) = match running {
            Ok(running) => (Ok(()), Some(running)),
            Err(error) => (Err(error), None),
        };
        background.running = running;
        drop(background);
        self.world
            .together("start to save", || started.map(|()| [0; 2]))?;
        Ok(true)
    }

    /// The step of the last save that this rank knows to be durable. Not collective.
    pub fn durable(&self) -> Option<u64> {
        let background = self.writer.background();
        background.durable.as_ref().map(|saved| saved.step)
    }

    /// Whether this rank writes nothing in the background now: a save, if one was begun, has ended well or badly.
    /// Not collective.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let background = self.writer.background();
        let running = background.running.as_ref();
        running.is_none_or(JoinHandle::is_finished)
    }

    /// Waits until nothing is being written; the step of the last durable save. Collective.
    ///
    /// # Errors
    /// What writing it has failed with.
    pub fn wait(&mut self) -> Result<Option<u64>> {
        self.writer.settle(self.world.comm())?;
        Ok(self.durable())
    }

    /// Takes what this rank saves, once nothing else is being written.
    fn job(&self, save: Save<'_>) -> Result<Job> {
        self.writer.settle(self.world.comm())?;
        let folder = self.writer.storage.path();
        let mut taken = None;
        self.world.together("save", || {
            taken = Some(save.take(&self.world, folder)?);
            Ok([0; 2])
        })?;
        // An error of this rank was returned above.
        let taken = taken.ok_or_else(|| Error::file(folder, "parts to save", "none"))?;
        Ok(Job {
            writer: self.writer.clone(),
            taken,
        })
    }

    /// Whether any rank still writes. Collective.
    fn is_busy(&self) -> Result<bool> {
        let mut busy = [u8::from(!self.is_idle())];
        let all = SpanMut::of(&mut busy);
        let comm = self.world.comm();
        comm.all_reduce(&"saving".into(), Reduce::Max, all)?;
        Ok(busy[0] != 0)
    }
}
