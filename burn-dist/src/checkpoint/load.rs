//! Reading a save.

use super::claim;
use super::contents::{Contents, OPTIMIZER};
use super::folder::{rank_file, save_folder};
use super::manifest::{Manifest, Stamp, measure};
use super::optimizer::{Kept, StateTensor, States};
use super::trial::Behaviours;
use crate::error::{Error, Result};
use crate::file_type::burn_type;
use crate::world::World;
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, DType, Tensor, TensorData};
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;

const WHAT: &str = "load";

impl World {
    /// Whether a folder holds a save, as rank 0 sees it. Collective.
    ///
    /// # Errors
    /// [`Error::File`] where that cannot be told: only a file that certainly is not there counts as no
    /// save. The other ranks return [`Error::PeerFailed`] then.
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
            let contents = Contents::of(&model)?;
            let (manifest, stamp) = Manifest::read(folder)?;
            let seen = [manifest.number, stamp.number()];
            found = Some((contents, manifest, stamp));
            Ok(seen)
        })?;
        let Some((contents, manifest, stamp)) = found else {
            return Err(Error::file(folder, "a save", "none"));
        };
        alike(folder, &seen)?;
        self.together(WHAT, || {
            manifest.check(folder, self.size(), &contents.parameters)?;
            let behaves = Behaviours::of(&optimizer, &model, &contents.paths)?;
            Behaviours::compare(
                manifest.optimizer.as_ref(),
                behaves.as_ref(),
                &Manifest::path(folder),
            )?;
            let save = save_folder(folder, manifest.number);
            let path = rank_file(&save, self.rank(), self.size());
            let (found, listed) = (measure(&path)?, &manifest.files[self.rank()]);
            if found != *listed {
                let expected = format!("{} bytes with checksum {:08x}", listed.bytes, listed.crc32);
                let found = format!("{} bytes with {:08x}", found.bytes, found.crc32);
                return Err(Error::file(&path, expected, found));
            }
            let state = manifest.state.read(folder)?;
            let (shards, states) = read(&path, &contents)?;
            let optimizer = states.restore(optimizer, &contents.paths, &path)?;
            if self.is_chief() {
                claim::knows(self, folder, stamp)?;
            }
            loaded = Some((shards, optimizer, state));
            Ok([0; 2])
        })?;
        let Some((shards, optimizer, state)) = loaded else {
            return Err(Error::file(folder, "a save", "none"));
        };
        let model = model.map(&mut Fill {
            shards,
            path: Vec::new(),
        });
        Ok((model, optimizer, state))
    }
}

/// Fails if a rank has read another manifest than rank 0.
fn alike(folder: &Path, seen: &[[u64; 2]]) -> Result<()> {
    let Some(odd) = seen.iter().position(|one| *one != seen[0]) else {
        return Ok(());
    };
    let one = |rank: usize| {
        let [number, stamp] = seen[rank];
        format!("number {number} ({}) on rank {rank}", Stamp::from(stamp))
    };
    let expected = format!("one save for all ranks, {}", one(0));
    let found = format!("{}: give all ranks one folder that they share", one(odd));
    Err(Error::file(&Manifest::path(folder), expected, found))
}

type Shards = BTreeMap<String, (DType, Vec<u8>)>;

fn read(path: &Path, contents: &Contents) -> Result<(Shards, States)> {
    let damaged = |e: &dyn std::fmt::Display| Error::file(path, "a rank's file of a save", e);
    let bytes = std::fs::read(path).map_err(|e| damaged(&e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let mut shards = BTreeMap::new();
    for stored in &contents.shards {
        let (name, size, dtype) = (&stored.name, stored.shard.size(), stored.dtype);
        let found = file.tensor(name).map_err(|e| damaged(&e))?;
        if found.data().len() != size || burn_type(found.dtype()) != Some(dtype) {
            let expected = format!("{name}: {size} bytes of {}", dtype.name());
            let found = format!("{} bytes of {:?}", found.data().len(), found.dtype());
            return Err(Error::file(path, expected, found));
        }
        shards.insert(stored.path.clone(), (dtype, found.data().to_vec()));
    }
    let mut states = States::default();
    for (name, found) in file.iter() {
        if let Some(name) = name.strip_prefix("optimizer/") {
            let dtype = burn_type(found.dtype())
                .ok_or_else(|| damaged(&format!("optimizer state of type {:?}", found.dtype())))?;
            states.tensors.push(StateTensor {
                name: name.to_string(),
                dtype,
                shape: found.shape().to_vec(),
                bytes: Bytes::from_bytes_vec(found.data().to_vec()),
            });
        }
    }
    let text = header
        .metadata()
        .as_ref()
        .and_then(|all| all.get(OPTIMIZER));
    let text = text.ok_or_else(|| damaged(&"no list of what the optimizer keeps"))?;
    let kept: Vec<Kept>;
    (states.scalars, kept) = serde_json::from_str(text).map_err(|e| damaged(&e))?;
    states.check(&kept, contents, path)?;
    Ok((shards, states))
}

/// Puts saved shards and running state in the place of what a model stores.
struct Fill {
    shards: Shards,
    path: Vec<String>,
}

impl ModuleMapper for Fill {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((dtype, bytes)) = self.shards.remove(&self.path.join(".")) else {
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
