//! Writing a save.

use super::claim;
use super::contents::Contents;
use super::folder::{begin, rank_file, replaceable, replaced, save_folder, sync_folder};
use super::manifest::{Claims, Listed, Manifest, measure};
use super::optimizer::States;
use super::state::UserState;
use super::trial::Behaviours;
use crate::error::{Error, Result};
use crate::finite;
use crate::world::World;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::Serialize;
use std::path::Path;

const WHAT: &str = "save";

impl World {
    /// Saves a sharded model, its optimizer and a state of the user's own to a folder.
    ///
    /// Collective; see the module documentation of the format. `state` is anything serde can
    /// write as JSON: the epoch, the step, a schedule. Only rank 0's is kept, exactly: infinities and all
    /// bits of a float come back.
    ///
    /// The save that this run has written or loaded before is removed; nothing else is ever replaced or
    /// removed. The folder belongs to this run from then on ([`claim_saves`](Self::claim_saves)).
    ///
    /// # Cost
    /// Each rank writes what it holds: its shards of parameters and optimizer states. It holds the
    /// states once more meanwhile. Files are as readable for others as the umask says.
    ///
    /// # Errors
    /// [`Error::Replicas`] if ranks that should store the same do not;
    /// [`Error::File`] where a file cannot be written, for a folder to which another run saves, and for
    /// one with a save that this run has neither loaded nor written; ranks whose own files are fine
    /// return [`Error::PeerFailed`] then. [`Error::Model`] on all ranks for trainable parameters,
    /// running state or optimizer states that are not finite, naming the first; for optimizer states
    /// of a type in which Burn would not load them (it loads the default device's: f32); and if
    /// `model` was not sharded. The previous save is untouched in every case.
    pub fn save<M: Module>(
        &self,
        folder: impl AsRef<Path>,
        model: &M,
        optimizer: &ModuleOptimizer,
        state: &impl Serialize,
    ) -> Result<()> {
        let folder = folder.as_ref();
        self.check_replicas(model)?;
        let mut ready = None;
        let mut contents = None;
        self.together(WHAT, || {
            contents = Some(Contents::of(model)?);
            Ok([0; 2])
        })?;
        let contents = contents.ok_or_else(crate::shard::not_sharded)?;
        self.together(WHAT, || {
            let states = States::of(optimizer, &contents.paths)?;
            states.can_come_back()?;
            ready = Some((states, contents.elements()?));
            Ok([0; 2])
        })?;
        let Some((states, elements)) = ready else {
            return Err(Error::file(folder, "states to save", "none"));
        };
        let first = contents.not_finite(&elements, &states);
        finite::agree(self.comm(), first, WHAT, |number| contents.name(number))?;

        let (mut before, mut given) = (None, None);
        let number = self.together(WHAT, || {
            if !self.is_chief() {
                return Ok([0; 2]);
            }
            given = Some(UserState::of(state, folder)?);
            claim::take(self, folder)?;
            let current = claim::own(self, folder)?;
            let number = begin(folder, current.as_ref())?;
            before = current.map(|manifest| manifest.number);
            Ok([number, 0])
        })?[0][0];
        let save = save_folder(folder, number);
        let path = rank_file(&save, self.rank(), self.size());
        let written = self.together(WHAT, || {
            contents.write(&elements, &states, &path)?;
            let Listed { bytes, crc32 } = measure(&path)?;
            Ok([bytes, u64::from(crc32)])
        });
        let files = written.inspect_err(|_| {
            // It would be removed before the next save too, but a full disk cannot wait.
            if self.is_chief() {
                let _ = std::fs::remove_dir_all(&save);
            }
        })?;
        self.together(WHAT, || {
            let Some(state) = given else {
                return Ok([0; 2]); // Not rank 0.
            };
            sync_folder(&save)?;
            sync_folder(folder)?;
            let files = files.iter().map(|[bytes, crc32]| Listed {
                bytes: *bytes,
                crc32: *crc32 as u32,
            });
            let manifest = Manifest::new(Claims {
                number,
                strategy: contents.strategies.clone(),
                parameters: contents.parameters.clone(),
                files: files.collect(),
                optimizer: Behaviours::of(optimizer, model, &contents.paths)?,
                state,
            });
            if let Some(before) = before {
                replaceable(folder, before)?;
            }
            let stamp = manifest.commit(folder)?;
            claim::knows(self, folder, stamp)?;
            replaced(folder, number, before);
            Ok([0; 2])
        })?;
        Ok(())
    }
}
