//! Writing a save.

use super::claim;
use super::digest::FileDigest;
use super::folder::{self, sync_folder};
use super::manifest::{Manifest, ManifestFields};
use super::model_state::ModelState;
use super::rank_file::RankFile;
use super::state::UserState;
use super::trial;
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
        let mut model_state = None;
        self.together(WHAT, || {
            model_state = Some(ModelState::of(model)?);
            Ok([0; 2])
        })?;
        let model_state = model_state.ok_or_else(crate::shard::not_sharded)?;
        let mut rank_file = None;
        self.together(WHAT, || {
            rank_file = Some(RankFile::of(&model_state, optimizer)?);
            Ok([0; 2])
        })?;
        // An error of this rank was returned above.
        let Some(rank_file) = rank_file else {
            return Err(Error::file(folder, "states to save", "none"));
        };
        let first = rank_file.not_finite();
        finite::agree(self.comm(), first, WHAT, |number| rank_file.name(number))?;

        let (mut before, mut user_state) = (None, None);
        let number = self.together(WHAT, || {
            if !self.is_chief() {
                return Ok([0; 2]);
            }
            user_state = Some(UserState::of(state, folder)?);
            claim::lock(self, folder)?;
            before = claim::own_save(self, folder)?.map(|manifest| manifest.number);
            let number = folder::create_save(folder, before)?;
            Ok([number, 0])
        })?[0][0];
        let save = folder::save_folder(folder, number);
        let path = folder::rank_path(&save, self.rank(), self.size());
        let written = self.together(WHAT, || {
            rank_file.write(&path)?;
            let FileDigest { bytes, crc32 } = FileDigest::of(&path)?;
            Ok([bytes, u64::from(crc32)])
        });
        let files = written.inspect_err(|_| {
            // It would be removed before the next save too, but a full disk cannot wait.
            if self.is_chief() {
                let _ = std::fs::remove_dir_all(&save);
            }
        })?;
        self.together(WHAT, || {
            let Some(state) = user_state else {
                return Ok([0; 2]); // Not rank 0.
            };
            sync_folder(&save)?;
            sync_folder(folder)?;
            let files = files.iter().map(|[bytes, crc32]| FileDigest {
                bytes: *bytes,
                crc32: *crc32 as u32,
            });
            let manifest = Manifest::new(ManifestFields {
                number,
                strategy: model_state.strategies.clone(),
                parameters: model_state.parameters.clone(),
                files: files.collect(),
                optimizer: trial::observe(optimizer, model, &model_state.paths)?,
                forwards: model_state.forwards(),
                state,
            });
            if let Some(before) = before {
                folder::mark_removable(folder, before)?;
            }
            let fingerprint = manifest.commit(folder)?;
            claim::set_own_save(self, folder, fingerprint)?;
            folder::remove_replaced(folder, number, before);
            Ok([0; 2])
        })?;
        Ok(())
    }
}
