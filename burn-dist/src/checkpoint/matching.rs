//! Which tensor of a save is read into which of a model, and whether they fit.

use super::fill::{ReadSaved, Target, Targets};
use super::format::{
    Manifest, OptimizerBehaviour, SavedOptimizer, SavedTensor, model_tensor, optimizer_tensor,
};
use super::open_save::OpenSave;
use super::part::{ModelState, StateToLoad, StatesToLoad, dimensions, observe, path_of};
use crate::error::{Error, Result};
use crate::pattern::lies_in;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::DType;
use std::collections::HashMap;
use std::ops::Range;

impl OpenSave {
    fn may(&self, path: &str) -> bool {
        let names: Vec<String> = path.split('.').map(String::from).collect();
        let mut patterns = self.may_differ.iter();
        patterns.any(|pattern| lies_in(pattern, &names))
    }

    /// What this rank stores of a model, and where the save has it, by path.
    pub(super) fn targets<M: Module>(
        &self,
        name: &str,
        model: &M,
        is_resumed: bool,
    ) -> Result<(ModelState, Targets)> {
        let state = match &self.world {
            Some(world) => ModelState::of(model, (world.rank(), world.size()))?,
            None => ModelState::of_plain(model)?,
        };
        let mut targets = Targets::new();
        let matched = self.matched(name, &state, is_resumed)?;
        for (stored, saved) in state.tensors.iter().zip(matched) {
            let Some(saved) = saved else { continue };
            let target = Target {
                name: model_tensor(name, &saved.facts.name),
                range: stored.stored.clone(),
                dtype: stored.dtype,
                is_host: stored.shard.host_bytes().is_some(),
                saved,
            };
            targets.insert(stored.facts.name.clone(), target);
        }
        Ok((state, targets))
    }

    /// The saved tensor of each of a model's, and none where that may be.
    ///
    /// # Errors
    /// [`Error::File`] for the first that differs where none may, in either direction.
    fn matched(
        &self,
        name: &str,
        state: &ModelState,
        is_resumed: bool,
    ) -> Result<Vec<Option<SavedTensor>>> {
        let model = self.saved(name)?;
        let saved: HashMap<&str, &SavedTensor> = model
            .tensors
            .iter()
            .map(|tensor| (tensor.facts.name.as_str(), tensor))
            .collect();
        let refused = |expected: String, found: String| {
            let found = format!(
                "{found} (saved under {}; what differs on purpose is named by may_differ)",
                model.strategy
            );
            Error::file(&Manifest::path(&self.save), expected, found)
        };
        let mut matched = Vec::new();
        for stored in &state.tensors {
            let facts = &stored.facts;
            let found = saved.get(facts.name.as_str()).copied();
            let fits = found.is_some_and(|found| {
                let found = &found.facts;
                let kind = !is_resumed || found.trains() == facts.trains();
                let is_same = (&found.shape, &found.dtype, &found.quantized)
                    == (&facts.shape, &facts.dtype, &facts.quantized);
                kind && is_same
            });
            if !fits && !self.may(&facts.name) {
                let found = found.map_or("no such tensor".into(), |f| f.facts.to_string());
                return Err(refused(facts.to_string(), found));
            }
            matched.push(found.filter(|_| fits).cloned());
        }
        let more = model.tensors.iter().find(|tensor| {
            let name = &tensor.facts.name;
            state.position(name).is_none() && !self.may(name)
        });
        match more {
            None => Ok(matched),
            Some(more) => Err(refused("no such tensor".into(), more.facts.to_string())),
        }
    }

    /// The optimizer with the saved states of what this rank stores.
    pub(super) fn optimizer<M: Module>(
        &self,
        name: &str,
        model: &M,
        (state, targets): (&ModelState, &Targets),
        optimizer: ModuleOptimizer,
    ) -> Result<ModuleOptimizer> {
        let manifest = Manifest::path(&self.save);
        let saved = self.saved(name)?.optimizer.clone();
        let saved = saved.ok_or_else(|| {
            let expected = format!("an optimizer of {name}");
            let found = "a model that was saved without (load it by weights)";
            Error::file(&manifest, expected, found)
        })?;
        let behaviour = observe(&optimizer, model, &state.paths)?;
        let behaviour =
            behaviour.map(|behaviour| behaviour.only(|path| targets.contains_key(path)));
        OptimizerBehaviour::compare(saved.behaviour.as_ref(), behaviour.as_ref(), &manifest)?;
        let (states, read) = self.optimizer_states(name, &saved, state, targets)?;
        let restored = states.restore(optimizer, &state.paths, read);
        restored.map_err(|error| match error {
            Error::Config {
                expected, found, ..
            } => Error::file(&manifest, expected, found),
            other => other,
        })
    }

    /// The states of those parameters of which this rank stores something.
    fn optimizer_states(
        &self,
        name: &str,
        saved: &SavedOptimizer,
        state: &ModelState,
        targets: &Targets,
    ) -> Result<(StatesToLoad, ReadSaved)> {
        let wanted = |path: &str| {
            let stored = state.tensor(path).filter(|_| targets.contains_key(path));
            stored.filter(|stored| match stored.owned {
                Some(owned) => owned.is_here,
                None => !stored.stored.is_empty(),
            })
        };
        let mut states = StatesToLoad::default();
        let mut read = ReadSaved {
            files: self.files.clone(),
            tensors: Vec::new(),
        };
        for tensor in &saved.tensors {
            let Some(stored) = wanted(path_of(&tensor.facts.name)) else {
                continue;
            };
            let dtype = tensor.facts.dtype().unwrap_or(DType::F32);
            // One of its parameter's shape has an element for each of it.
            let is_piece = stored.owned.is_none() && tensor.facts.shape == stored.facts.shape;
            let (range, shape): (Range<usize>, _) = if is_piece {
                (stored.stored.clone(), stored.stored_shape.clone())
            } else {
                let len = tensor.facts.elements().unwrap_or_default();
                (0..len, tensor.facts.shape.clone())
            };
            states.tensors.push(StateToLoad {
                name: tensor.facts.name.clone(),
                dtype,
                shape,
            });
            let full = optimizer_tensor(name, &tensor.facts.name);
            read.tensors.push((tensor.clone(), full, range));
        }
        for (name, text) in &saved.scalars {
            let Some(stored) = wanted(path_of(name)) else {
                continue;
            };
            let own = stored.stored_shape.len();
            if let Some(other) = dimensions(name, text).filter(|other| *other != own) {
                let expected = format!("{name}: {own} dimensions");
                return Err(Error::file(&Manifest::path(&self.save), expected, other));
            }
            states.scalars.insert(name.clone(), text.clone());
        }
        Ok((states, read))
    }
}
