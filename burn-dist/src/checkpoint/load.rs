//! Resuming from a save that [`World::save`] has written.

use super::folder::RunFolder;
use super::open_save::Which;
use super::save::{MODEL, STATE};
use crate::error::Result;
use crate::world::World;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::de::DeserializeOwned;
use std::path::Path;

impl World {
    /// True if a folder holds a complete save, as rank 0 sees it. Collective.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the file system fails to say whether there is one, and
    /// [`Error::PeerFailed`](crate::Error::PeerFailed) on the other ranks then.
    pub fn has_save(&self, folder: impl AsRef<Path>) -> Result<bool> {
        self.from_chief(|| Ok(RunFolder::new(folder.as_ref()).latest()?.is_some()))
    }

    /// Resumes from the last complete save in a folder, bit for bit.
    ///
    /// `model` and `optimizer` are made as for the first start; the number of ranks and the strategy may be others.
    /// They come back with what was saved, and with the user's state. The save may be replaced by this run's
    /// next one in the same folder. Collective.
    ///
    /// # Cost
    /// Each rank reads what it stores, once. The optimizer's states are in memory twice while it takes them.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if there is no save, it cannot be read or is damaged, or
    /// it is of another model or optimizer: the message names the first difference.
    /// An optimizer is another one if it keeps other states, or steps small numbers to other results,
    /// as another kind, other settings or other groups do. Ranks whose own files are fine return
    /// [`Error::PeerFailed`](crate::Error::PeerFailed) then. A part of a save is loaded by
    /// [`open_save`](Self::open_save).
    pub fn load<M: Module, S: DeserializeOwned>(
        &self,
        folder: impl AsRef<Path>,
        model: M,
        optimizer: ModuleOptimizer,
    ) -> Result<(M, ModuleOptimizer, S)> {
        let mut save = self.open_save(folder, Which::Latest)?;
        let (model, optimizer) = save.model(MODEL, model, optimizer)?;
        let state = save.state(STATE)?;
        save.finish()?;
        Ok((model, optimizer, state))
    }
}
