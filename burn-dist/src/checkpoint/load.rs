//! Reading a save.

use super::manifest::{Manifest, measure, rank_file, save_folder};
use super::optimizer::{StateTensor, States};
use super::save::Contents;
use crate::comm::SpanMut;
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

impl World {
    /// Whether a folder holds a save, as rank 0 sees it. Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn has_save(&self, folder: impl AsRef<Path>) -> Result<bool> {
        let mut found = [u8::from(Manifest::exists(folder.as_ref()))];
        let label = "has_save".into();
        self.comm().broadcast(&label, 0, SpanMut::of(&mut found))?;
        Ok(found[0] != 0)
    }

    /// Resumes from the last complete save in a folder, bit for bit.
    ///
    /// `model` and `optimizer` are made as for the first start, the model sharded over as many
    /// ranks as it was saved from; they come back with what was saved, and with the user's state.
    /// Collective.
    ///
    /// # Errors
    /// [`Error::File`] if there is no save, it is damaged, or it is of another model or number of
    /// ranks: the message names the first difference. Ranks whose own file is fine return
    /// [`Error::PeerFailed`] then.
    pub fn load<M: Module, S: DeserializeOwned>(
        &self,
        folder: impl AsRef<Path>,
        model: M,
        optimizer: ModuleOptimizer,
    ) -> Result<(M, ModuleOptimizer, S)> {
        let folder = folder.as_ref();
        let contents = Contents::of(&model)?;
        let mut loaded = None;
        let numbers = self.together("load", || {
            let manifest = Manifest::read(folder)?;
            let cut_over = contents.sharding.cut.size();
            manifest.check(folder, cut_over, self.size(), &contents.parameters)?;
            let save = save_folder(folder, manifest.number);
            let path = rank_file(&save, self.rank(), self.size());
            let (found, listed) = (measure(&path)?, &manifest.files[self.rank()]);
            if found != *listed {
                let expected = format!("{} bytes with checksum {:08x}", listed.bytes, listed.crc32);
                let found = format!("{} bytes with {:08x}", found.bytes, found.crc32);
                return Err(Error::file(&path, expected, found));
            }
            let state = serde_json::from_value(manifest.state)
                .map_err(|e| Error::file(folder, "a state of the type this program loads", e))?;
            loaded = Some((read(&path, &contents)?, state));
            Ok([manifest.number, 0])
        })?;
        let Some(((pieces, states), state)) = loaded else {
            return Err(Error::file(folder, "a save", "none"));
        };
        if let Some([other, _]) = numbers.iter().find(|n| **n != numbers[0]) {
            let expected = format!("the same save on every rank, number {}", numbers[0][0]);
            return Err(Error::file(folder, expected, format!("number {other}")));
        }
        let model = model.map(&mut Fill {
            pieces,
            path: Vec::new(),
        });
        let mut filled = None;
        self.together("load", || {
            let paths = Contents::of(&model)?.paths;
            let ids = paths.into_iter().map(|(id, path)| (path, id)).collect();
            filled = Some(states.into_optimizer(optimizer, &ids)?);
            Ok([0; 2])
        })?;
        match filled {
            Some(optimizer) => Ok((model, optimizer, state)),
            None => Err(Error::file(folder, "an optimizer's states", "none")),
        }
    }
}

type Pieces = BTreeMap<String, (DType, Vec<u8>)>;

fn read(path: &Path, contents: &Contents) -> Result<(Pieces, States)> {
    let damaged = |e: &dyn std::fmt::Display| Error::file(path, "a rank's file of a save", e);
    let bytes = std::fs::read(path).map_err(|e| damaged(&e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let mut pieces = BTreeMap::new();
    for (name, (piece, dtype)) in &contents.pieces {
        let found = file.tensor(name).map_err(|e| damaged(&e))?;
        if found.data().len() != piece.size() || burn_type(found.dtype()) != Some(*dtype) {
            let expected = format!("{name}: {} bytes of {}", piece.size(), dtype.name());
            let found = format!("{} bytes of {:?}", found.data().len(), found.dtype());
            return Err(Error::file(path, expected, found));
        }
        let key = name.split_once('/').map_or(name.as_str(), |(_, path)| path);
        pieces.insert(key.to_string(), (*dtype, found.data().to_vec()));
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
    let scalars = header.metadata().as_ref().and_then(|m| m.get("optimizer"));
    if let Some(scalars) = scalars {
        states.scalars = serde_json::from_str(scalars).map_err(|e| damaged(&e))?;
    }
    Ok((pieces, states))
}

/// Puts saved pieces and running state in the place of what a model stores.
struct Fill {
    pieces: Pieces,
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
        let Some((dtype, bytes)) = self.pieces.remove(&self.path.join(".")) else {
            return param;
        };
        param.map(|old| {
            let (device, takes_gradients) = (old.device(), old.is_require_grad());
            let data = TensorData::from_bytes_vec(bytes, old.shape(), dtype);
            let new = Tensor::from_data(data, (&device.clone().without_autodiff(), dtype));
            match device.is_autodiff() {
                true => Tensor::from_inner(new).set_require_grad(takes_gradients),
                false => new,
            }
        })
    }
}
