//! Saves of one model, its optimizer and a state.

use super::checkpointer::Checkpointer;
use super::open_save::Which;
use super::save::Save;
use super::storage::open;
use crate::error::Result;
use crate::world::World;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// The name of the only model of [`World::save`].
const MODEL: &str = "model";
/// The name of its state.
const STATE: &str = "state";

impl World {
    /// Saves a sharded model, its optimizer and a state of the user's own to a folder.
    ///
    /// Collective. `state` is anything serde can write as JSON: the epoch, the step, a schedule. Only rank 0's is kept,
    /// exactly: infinities and all bits of a float come back. The save loads on any number of ranks.
    ///
    /// The save that this run has written or loaded before is removed, unless a
    /// [`Checkpointer`](crate::checkpoint::Checkpointer) of the folder keeps more; nothing else is ever replaced or
    /// removed. The folder belongs to this run from then on ([`claim_saves`](Self::claim_saves)).
    ///
    /// # Cost
    /// Each rank writes what it holds, its shards of parameters and optimizer states; what several ranks hold they
    /// divide. Files are as readable for others as the umask says.
    ///
    /// # Errors
    /// [`Error::Replicas`](crate::Error::Replicas) if ranks that should store the same do not;
    /// [`Error::File`](crate::Error::File) where a file cannot be written, for a folder to which another run saves, and for
    /// one with a save that this run has neither loaded nor written; ranks whose own files are fine
    /// return [`Error::PeerFailed`](crate::Error::PeerFailed) then. [`Error::Model`](crate::Error::Model) on all ranks for trainable parameters,
    /// running state or optimizer states that are not finite, naming the first; for optimizer states
    /// of a type in which Burn would not load them (it loads the default device's: f32); and if
    /// `model` was not sharded. The previous save is untouched in every case.
    ///
    /// # Source
    /// PyTorch: `torch.distributed.checkpoint.save`.
    pub fn save<M: Module + 'static>(
        &self,
        folder: impl AsRef<Path>,
        model: &M,
        optimizer: &ModuleOptimizer,
        state: &impl Serialize,
    ) -> Result<()> {
        let save = Save::unnumbered().model(MODEL, model, optimizer);
        Checkpointer::unclaimed(self, folder.as_ref())?.save(save.state(STATE, state))
    }

    /// True if a folder holds a complete save, as rank 0 sees it. Collective.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the file system fails to say whether there is one, and
    /// [`Error::PeerFailed`](crate::Error::PeerFailed) on the other ranks then.
    pub fn has_save(&self, folder: impl AsRef<Path>) -> Result<bool> {
        self.from_chief(|| Ok(open(folder.as_ref())?.latest()?.is_some()))
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
