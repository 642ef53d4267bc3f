//! Writing a save.

use super::manifest::{Described, Listed, Manifest, measure, rank_file, save_folder, sync_folder};
use super::optimizer::States;
use crate::error::{Error, Result};
use crate::file_type::file_type;
use crate::layout::Parameter;
use crate::shard::{Identity, Piece, Sharding, Visit, not_sharded, two_sharded, walk};
use crate::world::World;
use burn::module::{Module, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{DType, Tensor};
use safetensors::tensor::TensorView;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

impl World {
    /// Saves a sharded model, its optimizer and a state of the user's own to a folder.
    ///
    /// Collective; see the module documentation of the format. `state` is anything serde can
    /// write as JSON: the epoch, the step, a schedule. Only rank 0's is kept.
    ///
    /// # Cost
    /// Each rank writes what it holds: its pieces of parameters and optimizer states.
    ///
    /// # Errors
    /// [`Error::File`] where a file cannot be written; ranks whose own files are fine return
    /// [`Error::PeerFailed`] then. The previous save is untouched in every case. [`Error::Model`]
    /// if `model` was not sharded.
    pub fn save<M: Module>(
        &self,
        folder: impl AsRef<Path>,
        model: &M,
        optimizer: &ModuleOptimizer,
        state: &impl Serialize,
    ) -> Result<()> {
        let folder = folder.as_ref();
        let contents = Contents::of(model)?;
        let number = self.together("save", || {
            if !self.is_chief() {
                return Ok([0; 2]);
            }
            let number = Manifest::next_number(folder)?;
            let save = save_folder(folder, number);
            let failed = |e| Error::file(&save, "a folder that can be made", e);
            // What a killed save left behind under this number.
            if save.exists() {
                std::fs::remove_dir_all(&save).map_err(failed)?;
            }
            std::fs::create_dir_all(&save).map_err(failed)?;
            Ok([number, 0])
        })?[0][0];
        let save = save_folder(folder, number);
        let path = rank_file(&save, self.rank(), self.size());
        let listed = self.together("save", || {
            let states = States::of(optimizer, &contents.paths)?;
            contents.write(&path, &states)?;
            let Listed { bytes, crc32 } = measure(&path)?;
            Ok([bytes, u64::from(crc32)])
        })?;
        self.together("save", || {
            if !self.is_chief() {
                return Ok([0; 2]);
            }
            sync_folder(&save)?;
            sync_folder(folder)?;
            let files = listed.iter().map(|[bytes, crc32]| Listed {
                bytes: *bytes,
                crc32: *crc32 as u32,
            });
            let state = serde_json::to_value(state)
                .map_err(|e| Error::file(folder, "a state that JSON can hold", e))?;
            let manifest = Manifest::new(
                number,
                contents.sharding.strategy.to_string(),
                contents.sharding.cut.size(),
                contents.parameters.clone(),
                files.collect(),
                state,
            );
            manifest.commit(folder)?;
            remove_others(folder, &save);
            Ok([0; 2])
        })?;
        Ok(())
    }
}

/// Removes older saves and what killed ones left; a failure to do so costs only disk space.
fn remove_others(folder: &Path, keep: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        // Only what is named exactly as a save is ours to remove.
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let number = name
            .as_deref()
            .and_then(|n| n.strip_prefix("save-")?.parse().ok());
        let is_save = number.is_some_and(|n| save_folder(folder, n) == path);
        if is_save
            && path != keep
            && let Err(e) = std::fs::remove_dir_all(&path)
        {
            log::warn!("cannot remove the old save {}: {e}", path.display());
        }
    }
}

/// What a rank holds of a model.
pub(super) struct Contents {
    pub(super) sharding: Arc<Sharding>,
    pub(super) parameters: Vec<Described>,
    /// Pieces and running state, by the name they have in the file.
    pub(super) pieces: BTreeMap<String, (Piece, DType)>,
    /// The path of each parameter's id.
    pub(super) paths: HashMap<u64, String>,
}

impl Contents {
    pub(super) fn of<M: Module>(model: &M) -> Result<Self> {
        let mut look = Look::default();
        walk(model, &mut look);
        let Some(sharding) = look.sharding else {
            return Err(not_sharded());
        };
        let described = |p: &Parameter| Described::from(p);
        let units = sharding.units().iter();
        let parameters = units
            .flat_map(|u| u.layout.parameters())
            .map(|p| described(&p))
            .collect();
        Ok(Self {
            sharding,
            parameters,
            pieces: look.pieces.into_iter().collect::<Result<_>>()?,
            paths: look.paths,
        })
    }

    fn write(&self, path: &Path, states: &States) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::file(path, "to be written", e);
        let mut tensors = Vec::new();
        let mut pieces = Vec::new();
        for (name, (piece, dtype)) in &self.pieces {
            pieces.push((name, *dtype, piece.read()?));
        }
        for (name, dtype, bytes) in &pieces {
            let len = bytes.len() / dtype.size();
            tensors.push(((*name).clone(), view(*dtype, vec![len], bytes, path)?));
        }
        for state in &states.tensors {
            let view = view(state.dtype, state.shape.clone(), &state.bytes, path)?;
            tensors.push((format!("optimizer/{}", state.name), view));
        }
        let scalars = serde_json::to_string(&states.scalars).map_err(|e| failed(&e))?;
        let header = HashMap::from([("optimizer".to_string(), scalars)]);
        safetensors::serialize_to_file(tensors, Some(header), path).map_err(|e| failed(&e))?;
        File::open(path)
            .and_then(|f| f.sync_all())
            .map_err(|e| failed(&e))
    }
}

fn view<'a>(
    dtype: DType,
    shape: Vec<usize>,
    bytes: &'a [u8],
    path: &Path,
) -> Result<TensorView<'a>> {
    let known = file_type(dtype)
        .ok_or_else(|| Error::file(path, "float or integer tensors", dtype.name()))?;
    TensorView::new(known, shape, bytes).map_err(|e| Error::file(path, "whole tensors", e))
}

#[derive(Default)]
struct Look {
    sharding: Option<Arc<Sharding>>,
    pieces: Vec<Result<(String, (Piece, DType))>>,
    paths: HashMap<u64, String>,
}

impl Visit for Look {
    type Held = (u64, DType, Result<Piece>);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        let stored = param.base();
        (param.id.val(), stored.dtype(), Piece::of(stored))
    }

    fn sharded(&mut self, path: &str, (id, dtype, piece): Self::Held, identity: Identity) {
        let first = self
            .sharding
            .get_or_insert_with(|| identity.sharding.clone());
        let piece = match Arc::ptr_eq(first, &identity.sharding) {
            true => piece,
            false => Err(two_sharded(path)),
        };
        self.paths.insert(id, path.to_string());
        self.pieces
            .push(piece.map(|piece| (format!("parameter/{path}"), (piece, dtype))));
    }

    fn plain(&mut self, path: &str, (_, dtype, piece): Self::Held) {
        self.pieces
            .push(piece.map(|piece| (format!("state/{path}"), (piece, dtype))));
    }
}
