//! Reading a save.

use super::behaviour::OptimizerBehaviour;
use super::claim;
use super::digest::FileDigest;
use super::folder::{rank_path, save_folder};
use super::manifest::{Fingerprint, Manifest};
use super::model_state::ModelState;
use super::rank_file::{self, Shards};
use super::trial;
use crate::error::{Error, Result};
use crate::shard::{MapTensors, map_tensors};
use crate::world::World;
use burn::module::{Module, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Tensor, TensorData};
use serde::de::DeserializeOwned;
use std::path::Path;

const WHAT: &str = "load";

impl World {
    /// True if a folder holds a save, as rank 0 sees it. Collective.
    ///
    /// # Errors
    /// [`Error::File`] if the file system fails to say whether the manifest exists, and
    /// [`Error::PeerFailed`] on the other ranks then.
    pub fn has_save(&self, folder: impl AsRef<Path>) -> Result<bool> {
        let found = self.together("look for a save", || {
            if self.is_chief() {
                Ok([u64::from(Manifest::exists(folder.as_ref())?), 0])
            } else {
                Ok([0; 2])
            }
        })?;
        Ok(found[0][0] != 0)
    }

    /// Resumes from the last complete save in a folder, bit for bit.
    ///
    /// `model` and `optimizer` are made as for the first start, the model sharded over as many
    /// ranks as it was saved from; they come back with what was saved, and with the user's state.
    /// The save may be replaced by this run's next one in the same folder. Collective.
    ///
    /// # Cost
    /// Each rank reads its own file twice, and holds it in memory beside what it makes of it.
    ///
    /// # Errors
    /// [`Error::File`] if there is no save, it cannot be read or is damaged, ranks see different ones, or
    /// it is of another model, number of ranks or optimizer: the message names the first difference.
    /// An optimizer is another one if it keeps other states, or steps small numbers to other results,
    /// as another kind, other settings or other groups do. Ranks whose own file is fine return
    /// [`Error::PeerFailed`] then.
    pub fn load<M: Module, S: DeserializeOwned>(
        &self,
        folder: impl AsRef<Path>,
        model: M,
        optimizer: ModuleOptimizer,
    ) -> Result<(M, ModuleOptimizer, S)> {
        let folder = folder.as_ref();
        let (mut found, mut loaded) = (None, None);
        let seen = self.together(WHAT, || {
            let model_state = ModelState::of(&model)?;
            let (manifest, fingerprint) = Manifest::read(folder)?;
            let seen = [manifest.number, fingerprint.number()];
            found = Some((model_state, manifest, fingerprint));
            Ok(seen)
        })?;
        // An error of this rank was returned above.
        let Some((model_state, manifest, fingerprint)) = found else {
            return Err(Error::file(folder, "a save", "none"));
        };
        check_same_save(folder, &seen)?;
        self.together(WHAT, || {
            manifest.check(folder, self.size(), &model_state.parameters)?;
            let behaviour = trial::observe(&optimizer, &model, &model_state.paths)?;
            OptimizerBehaviour::compare(
                manifest.optimizer.as_ref(),
                behaviour.as_ref(),
                &Manifest::path(folder),
            )?;
            let save = save_folder(folder, manifest.number);
            let path = rank_path(&save, self.rank(), self.size());
            let (found, listed) = (FileDigest::of(&path)?, &manifest.files[self.rank()]);
            if found != *listed {
                return Err(Error::file(&path, listed.to_string(), found));
            }
            let state = manifest.state.read(folder)?;
            let (shards, states) = rank_file::read(&path, &model_state)?;
            let optimizer = states.restore(optimizer, &model_state.paths, &path)?;
            if self.is_chief() {
                claim::set_own_save(self, folder, fingerprint)?;
            }
            loaded = Some((shards, optimizer, state));
            Ok([0; 2])
        })?;
        let Some((shards, optimizer, state)) = loaded else {
            return Err(Error::file(folder, "a save", "none"));
        };
        model_state.set_forwards(&manifest.forwards);
        let model = map_tensors(model, &mut FillFromSave { shards });
        Ok((model, optimizer, state))
    }
}

/// Fails if a rank has read another manifest than rank 0.
fn check_same_save(folder: &Path, seen: &[[u64; 2]]) -> Result<()> {
    let Some(odd) = seen.iter().position(|one| *one != seen[0]) else {
        return Ok(());
    };
    let one = |rank: usize| {
        let [number, fingerprint] = seen[rank];
        let fingerprint = Fingerprint::from(fingerprint);
        format!("number {number} ({fingerprint}) on rank {rank}")
    };
    let expected = format!("one save for all ranks, {}", one(0));
    let found = format!("{}: give all ranks one folder that they share", one(odd));
    Err(Error::file(&Manifest::path(folder), expected, found))
}

/// Replaces what a model stores by saved shards and running state.
struct FillFromSave {
    shards: Shards,
}

impl MapTensors for FillFromSave {
    fn float<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((dtype, bytes)) = self.shards.remove(path) else {
            return param;
        };
        param.map(|old| {
            let (device, takes_gradients) = (old.device(), old.is_require_grad());
            let data = TensorData::from_bytes_vec(bytes, old.shape(), dtype);
            let new = Tensor::from_data(data, (&device.clone().without_autodiff(), dtype));
            if device.is_autodiff() {
                Tensor::from_inner(new).set_require_grad(takes_gradients)
            } else {
                new
            }
        })
    }
}
