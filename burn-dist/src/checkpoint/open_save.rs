//! A save that is open: its parts are loaded one by one, with ranks or without.

use super::folder::RunFolder;
use super::format::{
    DataFiles, Manifest, OptimizerBehaviour, SavedModel, SavedOptimizer, SavedTensor, model_tensor,
    optimizer_tensor,
};
use super::part::{ModelState, OptimizerState, StateTensor, dimensions, observe, path_of};
use super::report::LoadReport;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::shard::{MapTensors, lies_in, map_tensors};
use crate::world::World;
use burn::module::{Module, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, DType, Tensor, TensorData};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

const WHAT: &str = "load";

/// Which save of a run is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Which {
    /// The last complete one.
    #[default]
    Latest,
    /// The best one, of a run that keeps it ([`Keep::best`](super::Keep::best)).
    Best,
    /// The one of this step; of several, the last.
    Step(u64),
}

/// A save, of which parts are loaded into models, optimizers and states.
///
/// Each rank reads the ranges of the files that it stores itself, whatever ranks have written them, and verifies what it
/// reads.
///
/// ```
/// use burn::{nn::LinearConfig, optim::AdamWConfig, tensor::Device};
/// use burn_dist::checkpoint::{OpenSave, Which};
/// use burn_dist::prelude::*;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// Threads::new(3).run(|world| {
///     let layer = LinearConfig::new(8, 4).init(&world.device());
///     let layer = Strategy::fsdp().shard(layer, &world)?;
///     let optim = world.optimizer(AdamWConfig::new().init(), &layer)?;
///     world.save(folder, &layer, &optim, &7)
/// })?;
///
/// // On one device, without ranks.
/// let layer = LinearConfig::new(8, 4).init(&Device::flex().autodiff());
/// let mut save = OpenSave::new(folder, Which::Latest)?;
/// let (layer, optim) = save.model("model", layer, AdamWConfig::new().init())?;
/// let epoch: usize = save.state("state")?;
/// assert_eq!((epoch, save.finish()?.unused.len()), (7, 0));
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct OpenSave {
    world: Option<World>,
    folder: RunFolder,
    save: PathBuf,
    manifest: Manifest,
    files: DataFiles,
    /// Patterns of the tensors that may differ.
    may_differ: Vec<String>,
    used: BTreeSet<String>,
    report: LoadReport,
}

impl World {
    /// Opens a save of a run, for a part of it or all; [`load`](Self::load) is for all of a simple one. Collective.
    ///
    /// Every method of what it returns is collective too.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such save, or its manifest is damaged; on the ranks other than 0
    /// [`Error::PeerFailed`].
    pub fn open_save(&self, folder: impl AsRef<Path>, which: Which) -> Result<OpenSave> {
        let folder = RunFolder::new(folder.as_ref());
        // One rank reads it, so that all have the same.
        let (name, text) = self.from_chief(|| find(&folder, which))?;
        OpenSave::of(Some(self.clone()), folder, &name, &text)
    }
}

/// The name and the manifest of a save.
fn find(folder: &RunFolder, which: Which) -> Result<(String, String)> {
    let none = |expected: &str| Error::file(folder.path(), expected, "none");
    let name = match which {
        Which::Latest => folder.latest()?.ok_or_else(|| none("a complete save")),
        Which::Best => folder
            .best()?
            .ok_or_else(|| none("a best save, of a run that keeps it")),
        Which::Step(step) => {
            let all = folder.saves()?;
            let of_step = all.iter().filter(|save| save.step == step);
            let last = of_step.max_by_key(|save| save.sequence);
            last.map(|save| save.name.clone()).ok_or_else(|| {
                let steps: Vec<String> = all.iter().map(|save| save.step.to_string()).collect();
                let expected = format!("a save of step {step}");
                Error::file(
                    folder.path(),
                    expected,
                    format!("steps {}", steps.join(", ")),
                )
            })
        }
    }?;
    let text = Manifest::text(&folder.save(&name))?;
    Ok((name, text))
}

impl OpenSave {
    /// Opens a save of a run, for a model on one device.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such save, or its manifest is damaged.
    pub fn new(folder: impl AsRef<Path>, which: Which) -> Result<Self> {
        let folder = RunFolder::new(folder.as_ref());
        let (name, text) = find(&folder, which)?;
        Self::of(None, folder, &name, &text)
    }

    fn of(world: Option<World>, folder: RunFolder, name: &str, text: &str) -> Result<Self> {
        let save = folder.save(name);
        let manifest = Manifest::parse(text, &save)?;
        Ok(Self {
            world,
            folder,
            files: DataFiles::new(&save, manifest.files.clone()),
            report: LoadReport {
                save: save.display().to_string(),
                ..LoadReport::default()
            },
            save,
            manifest,
            may_differ: Vec::new(),
            used: BTreeSet::new(),
        })
    }

    /// Allows tensors at these paths to be missing in the save, to be in it alone, or to have another shape there: a
    /// new head, a layer more or less. What is missing keeps its value, and its optimizer's state begins anew.
    ///
    /// A pattern is the path of a module or a parameter, in which `*` stands for one name.
    pub fn may_differ(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.may_differ.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// The step of the save.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// A metric that was given with the save.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.manifest.metric(name)
    }

    /// The names of its models.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.manifest.models.keys().map(String::as_str)
    }

    /// The names of its states.
    pub fn states(&self) -> impl Iterator<Item = &str> {
        self.manifest.states.keys().map(String::as_str)
    }

    /// Loads a model and its optimizer, both made as for a start without a save.
    ///
    /// # Cost
    /// Each rank reads what it stores, once. The states are in memory twice while the optimizer takes them.
    ///
    /// # Errors
    /// [`Error::File`] if a file is missing or damaged, naming file and tensor; if the save has no such model, or no
    /// optimizer for it; and for tensors that differ where none may. An optimizer is another one if it
    /// keeps other states, or steps small numbers to other results, as another kind, other settings or other groups
    /// do. Ranks whose own files are fine return [`Error::PeerFailed`] then.
    pub fn model<M: Module>(
        &mut self,
        name: &str,
        model: M,
        optimizer: ModuleOptimizer,
    ) -> Result<(M, ModuleOptimizer)> {
        let loaded = self.together(|open| {
            let (state, shards) = open.shards(name, &model, true)?;
            let optimizer = open.optimizer(name, &model, &state, optimizer)?;
            Ok((state, shards, optimizer))
        })?;
        let (state, shards, optimizer) = loaded;
        let saved = self.saved(name)?;
        state.set_forwards(&saved.forwards);
        self.used.insert(format!("optimizer of {name}"));
        Ok((self.fill(name, model, shards), optimizer))
    }

    /// Loads a model without its optimizer, whether it was saved with one or not.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn weights<M: Module>(&mut self, name: &str, model: M) -> Result<M> {
        let (state, shards) = self.together(|open| open.shards(name, &model, false))?;
        state.set_forwards(&self.saved(name)?.forwards);
        Ok(self.fill(name, model, shards))
    }

    /// Loads a state.
    ///
    /// # Errors
    /// [`Error::File`] if the save has none of that name, or it is of another type.
    pub fn state<S: DeserializeOwned>(&mut self, name: &str) -> Result<S> {
        let state = self.together(|open| match open.manifest.states.get(name) {
            Some(state) => state.read(&open.save),
            None => Err(open.lacks("state", name, open.states())),
        })?;
        self.used.insert(format!("state {name}"));
        self.report.applied.push(format!("state {name}"));
        Ok(state)
    }

    /// The report of what was loaded.
    ///
    /// A run that has loaded all of a save may save to the same folder from now on, where its saves replace those that
    /// are there. Collective where ranks have opened it.
    ///
    /// # Errors
    /// [`Error::File`] if the folder's latest save cannot be read.
    pub fn finish(mut self) -> Result<LoadReport> {
        let models = self.manifest.models.iter();
        let parts = models.flat_map(|(name, model)| {
            let optimizer = model.optimizer.as_ref();
            let optimizer = optimizer.map(|_| format!("optimizer of {name}"));
            [Some(format!("model {name}")), optimizer]
        });
        let states = self.manifest.states.keys();
        let states = states.map(|name| Some(format!("state {name}")));
        let unused = parts.chain(states).flatten();
        let unused: Vec<String> = unused.filter(|part| !self.used.contains(part)).collect();
        let is_whole = unused.is_empty();
        self.report.unused.extend(unused);
        self.report.read_bytes = self.files.read_bytes();
        if let Some(world) = self.world.clone().filter(|_| is_whole) {
            let writer = Writer::of(&world, self.folder.path())?;
            world.together(WHAT, || {
                if world.is_chief() {
                    writer.claim().take_over(&self.folder)?;
                }
                Ok([0; 2])
            })?;
        }
        Ok(self.report)
    }

    /// Runs `f` on every rank; if it fails anywhere, it fails everywhere.
    fn together<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let Some(world) = self.world.clone() else {
            return f(self);
        };
        let mine = f(self);
        let told = mine.as_ref().map(|_| &()).map_err(Clone::clone);
        world.comm().exchange::<(), ()>(&WHAT.into(), told)?;
        mine
    }

    /// The manifest's error of a part that is not there.
    fn lacks<'a>(&self, what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
        let known: Vec<&str> = known.collect();
        let found = format!("{what}s {}", known.join(", "));
        let expected = format!("a {what} {name:?}");
        Error::file(&Manifest::path(&self.save), expected, found)
    }

    fn saved(&self, name: &str) -> Result<&SavedModel> {
        let model = self.manifest.models.get(name);
        model.ok_or_else(|| self.lacks("model", name, self.models()))
    }

    fn may(&self, path: &str) -> bool {
        let names: Vec<String> = path.split('.').map(String::from).collect();
        let mut patterns = self.may_differ.iter();
        patterns.any(|pattern| lies_in(pattern, &names))
    }

    /// What this rank stores of a model, and the elements of it that the save has.
    fn shards<M: Module>(
        &mut self,
        name: &str,
        model: &M,
        is_resumed: bool,
    ) -> Result<(ModelState, Shards)> {
        let state = match &self.world {
            Some(world) => ModelState::of(model, (world.rank(), world.size()))?,
            None => ModelState::of_plain(model)?,
        };
        let matched = self.matched(name, &state, is_resumed)?;
        let mut shards = Shards::new();
        for (stored, saved) in state.tensors.iter().zip(matched) {
            let Some(saved) = saved else { continue };
            let mut bytes = vec![0; stored.stored.len() * stored.dtype.size()];
            let full = model_tensor(name, &saved.facts.name);
            self.files
                .read(&saved, &full, stored.stored.clone(), &mut bytes)?;
            shards.insert(saved.facts.name, (stored.dtype, bytes));
        }
        Ok((state, shards))
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
                kind && (&found.shape, &found.dtype) == (&facts.shape, &facts.dtype)
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

    /// Notes what is applied, and puts it into the model.
    fn fill<M: Module>(&mut self, name: &str, model: M, shards: Shards) -> M {
        self.used.insert(format!("model {name}"));
        let mut fill = FillFromSave {
            applied: BTreeSet::new(),
            missing: Vec::new(),
            shards,
        };
        let model = map_tensors(model, &mut fill);
        let saved = self.manifest.models.get(name);
        for tensor in saved.into_iter().flat_map(|model| &model.tensors) {
            let path = &tensor.facts.name;
            let list = if fill.applied.contains(path) {
                &mut self.report.applied
            } else {
                &mut self.report.unused
            };
            list.push(format!("{name}: {path}"));
        }
        let missing = fill.missing.into_iter();
        let missing = missing.map(|path| format!("{name}: {path}"));
        self.report.missing.extend(missing);
        model
    }

    /// The optimizer with the saved states of what this rank stores.
    fn optimizer<M: Module>(
        &mut self,
        name: &str,
        model: &M,
        state: &ModelState,
        optimizer: ModuleOptimizer,
    ) -> Result<ModuleOptimizer> {
        let manifest = Manifest::path(&self.save);
        let saved = self.saved(name)?.optimizer.clone();
        let saved = saved.ok_or_else(|| {
            let expected = format!("an optimizer of {name}");
            let found = "a model that was saved without (load it by weights)";
            Error::file(&manifest, expected, found)
        })?;
        let loaded = self.loaded_paths(name, state)?;
        let behaviour = observe(&optimizer, model, &state.paths)?;
        let behaviour = behaviour.map(|behaviour| behaviour.only(|path| loaded.contains(path)));
        OptimizerBehaviour::compare(saved.behaviour.as_ref(), behaviour.as_ref(), &manifest)?;
        let states = self.optimizer_states(name, &saved, state, &loaded)?;
        let restored = states.restore(optimizer, &state.paths);
        restored.map_err(|error| match error {
            Error::Config {
                expected, found, ..
            } => Error::file(&manifest, expected, found),
            other => other,
        })
    }

    /// The paths of what is loaded of a model.
    fn loaded_paths(&self, name: &str, state: &ModelState) -> Result<BTreeSet<String>> {
        let matched = self.matched(name, state, true)?.into_iter().flatten();
        Ok(matched.map(|tensor| tensor.facts.name).collect())
    }

    /// The states of those parameters of which this rank stores something.
    fn optimizer_states(
        &mut self,
        name: &str,
        saved: &SavedOptimizer,
        state: &ModelState,
        loaded: &BTreeSet<String>,
    ) -> Result<OptimizerState> {
        let wanted = |path: &str| {
            let stored = state.tensor(path).filter(|_| loaded.contains(path));
            stored.filter(|stored| !stored.stored.is_empty())
        };
        let mut states = OptimizerState::default();
        for tensor in &saved.tensors {
            let Some(stored) = wanted(path_of(&tensor.facts.name)) else {
                continue;
            };
            let dtype = tensor.facts.dtype().unwrap_or(DType::F32);
            // One of its parameter's shape has an element for each of it.
            let (range, shape): (Range<usize>, _) = if tensor.facts.shape == stored.facts.shape {
                (stored.stored.clone(), stored.stored_shape.clone())
            } else {
                let len = tensor.facts.elements().unwrap_or_default();
                (0..len, tensor.facts.shape.clone())
            };
            let mut bytes = vec![0; range.len() * dtype.size()];
            let full = optimizer_tensor(name, &tensor.facts.name);
            self.files.read(tensor, &full, range, &mut bytes)?;
            states.tensors.push(StateTensor {
                name: tensor.facts.name.clone(),
                dtype,
                shape,
                bytes: Bytes::from_bytes_vec(bytes),
            });
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
        Ok(states)
    }
}

/// The elements that this rank stores, by path, with their type.
type Shards = BTreeMap<String, (DType, Vec<u8>)>;

/// Replaces what a model stores by saved shards and running state.
struct FillFromSave {
    shards: Shards,
    applied: BTreeSet<String>,
    missing: Vec<String>,
}

impl MapTensors for FillFromSave {
    fn float<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((dtype, bytes)) = self.shards.remove(path) else {
            self.missing.push(path.into());
            return param;
        };
        self.applied.insert(path.into());
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
