//! What all saves of a run to one folder share, whichever handle they come through.

use super::storage::{Claim, Keep, Known, Storage, identity, open};
use crate::comm::Communicator;
use crate::error::{Error, Result};
use crate::world::World;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

/// The saves of one world to one folder.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) storage: Arc<dyn Storage>,
    claim: Mutex<Claim>,
    /// The complete saves of the folder, on rank 0.
    known: Mutex<Vec<Known>>,
    keep: Mutex<Keep>,
    background: Mutex<Background>,
}

/// A save that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complete {
    pub(super) name: String,
    pub(super) step: u64,
}

/// The thread that writes, and the ranks' group for it.
#[derive(Debug, Default)]
pub(super) struct Background {
    pub(super) group: Option<Arc<Communicator>>,
    pub(super) running: Option<JoinHandle<Result<()>>>,
    /// The last save that is durable.
    pub(super) durable: Option<Complete>,
}

/// A writer, with the world and the folder that it is of.
type Entry = (Weak<Communicator>, PathBuf, Arc<Writer>);

/// The writers of all worlds of this process.
static WRITERS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

impl Writer {
    /// The writer of a world's saves to a folder.
    pub(super) fn of(world: &World, folder: &Path) -> Result<Arc<Self>> {
        let path = identity(folder)?;
        let mut writers = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of worlds that are gone are dropped, and their locks with them.
        writers.retain(|(world, ..)| world.strong_count() > 0);
        let comm = world.comm();
        let known = writers.iter().find(|(other, known, _)| {
            *known == path && std::ptr::eq(other.as_ptr(), Arc::as_ptr(comm))
        });
        if let Some((.., writer)) = known {
            return Ok(writer.clone());
        }
        let writer = Arc::new(Self {
            storage: open(folder)?,
            claim: Mutex::default(),
            known: Mutex::default(),
            keep: Mutex::new(Keep::last(1)?),
            background: Mutex::default(),
        });
        writers.push((Arc::downgrade(comm), path, writer.clone()));
        // A device may keep parts of a world for longer than the run lasts; the folder is free at its end.
        let ending = writer.clone();
        world.at_end(move |comm| {
            let settled = ending.settle(comm);
            ending.claim().release();
            settled
        });
        Ok(writer)
    }

    /// The claim of rank 0 to the folder.
    pub(super) fn claim(&self) -> MutexGuard<'_, Claim> {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The complete saves of the folder, as rank 0 last saw them.
    pub(super) fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep(&self) -> MutexGuard<'_, Keep> {
        self.keep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn background(&self) -> MutexGuard<'_, Background> {
        self.background
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is written in the background, and returns how that ended, on every rank alike. Collective
    /// if something is.
    pub(super) fn settle(&self, comm: &Communicator) -> Result<()> {
        let Some(running) = self.background().running.take() else {
            return Ok(());
        };
        let ended = running.join().unwrap_or_else(|_| {
            let message = "the thread that writes the save has ended".into();
            let rank = comm.rank();
            Err(Error::Panicked { rank, message })
        });
        let told = ended.as_ref().map_err(Clone::clone);
        comm.exchange::<(), ()>(&"end of a save".into(), told)?;
        Ok(())
    }
}
