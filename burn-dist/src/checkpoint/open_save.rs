//! A save that is open: its parts are loaded one by one, with ranks or without.

use super::fill::{FillFromSave, SharedFiles, Targets, locked};
use super::format::{DataFiles, Manifest, SavedModel};
use super::part::ModelState;
use super::report::LoadReport;
use super::storage::{Fingerprint, Storage, fingerprint, latest_fingerprint, open};
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::optim::{Ema, EmaProgress};
use crate::shard::map_tensors;
use crate::world::World;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

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
    pub(super) world: Option<World>,
    storage: Arc<dyn Storage>,
    /// The latest save at the time, with ranks.
    latest: Option<Fingerprint>,
    pub(super) save: PathBuf,
    manifest: Manifest,
    pub(super) files: SharedFiles,
    /// Patterns of the tensors that may differ.
    pub(super) may_differ: Vec<String>,
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
        let storage = open(folder.as_ref());
        let told = storage.as_ref().map(|_| &()).map_err(Clone::clone);
        self.comm().exchange::<(), ()>(&WHAT.into(), told)?;
        let storage = storage?;
        // One rank reads it, so that all have the same.
        let (name, text, latest) = self.from_chief(|| {
            let (name, text) = find(&*storage, which)?;
            // Now, because another run may save while this one loads.
            let latest = match which {
                Which::Latest => Some(fingerprint(&name, &text)),
                _ => latest_fingerprint(&*storage)?,
            };
            Ok((name, text, latest))
        })?;
        let mut open = OpenSave::of(Some(self.clone()), storage, &name, &text)?;
        open.latest = latest;
        Ok(open)
    }
}

/// The name and the manifest of a save.
pub(super) fn find(storage: &dyn Storage, which: Which) -> Result<(String, String)> {
    let none = |expected: &str| Error::file(storage.path(), expected, "none");
    let name = match which {
        Which::Latest => storage.latest()?.ok_or_else(|| none("a complete save")),
        Which::Best => storage
            .best()?
            .ok_or_else(|| none("a best save, of a run that keeps it")),
        Which::Step(step) => {
            let mut manifests = storage.manifests()?;
            manifests.sort_by_key(|(_, read)| read.as_ref().map_or(0, |save| save.sequence));
            let read = manifests.iter().map(|(_, read)| read);
            let all: Vec<&Manifest> = read.clone().flatten().collect();
            let last = all.iter().rfind(|save| save.step == step);
            last.map(|save| save.name.clone()).ok_or_else(|| {
                let steps: Vec<String> = all.iter().map(|save| save.step.to_string()).collect();
                let mut found = format!("steps {}", steps.join(", "));
                // It may be the one that is wanted.
                if let Some(Err(error)) = read.clone().find(|read| read.is_err()) {
                    found = format!("{found}, and one that cannot be read: {error}");
                }
                Error::file(storage.path(), format!("a save of step {step}"), found)
            })
        }
    }?;
    let text = storage.manifest(&name)?;
    Ok((name, text))
}

impl OpenSave {
    /// Opens a save of a run, for a model on one device.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such save, or its manifest is damaged.
    pub fn new(folder: impl AsRef<Path>, which: Which) -> Result<Self> {
        let storage = open(folder.as_ref())?;
        let (name, text) = find(&*storage, which)?;
        Self::of(None, storage, &name, &text)
    }

    fn of(world: Option<World>, storage: Arc<dyn Storage>, name: &str, text: &str) -> Result<Self> {
        let save = storage.save(name);
        let manifest = Manifest::parse(text, &save)?;
        Ok(Self {
            world,
            files: Arc::new(Mutex::new(DataFiles::new(
                storage.clone(),
                name,
                save.clone(),
                manifest.files.clone(),
            ))),
            storage,
            latest: None,
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

    /// Reads every file of the save, and verifies every byte of it. Not collective.
    ///
    /// # Errors
    /// [`Error::File`] for the first file that is missing or damaged.
    pub fn verify(&self) -> Result<()> {
        let files = 0..self.manifest.files.len();
        files
            .into_iter()
            .try_for_each(|file| locked(&self.files).verify(file, |_| {}))
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
            let (state, targets) = open.targets(name, &model, true)?;
            let optimizer = open.optimizer(name, &model, (&state, &targets), optimizer)?;
            Ok((open.fill(name, model, state, targets)?, optimizer))
        })?;
        self.used.insert(format!("optimizer of {name}"));
        Ok(loaded)
    }

    /// Loads a model without its optimizer, whether it was saved with one or not.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn weights<M: Module>(&mut self, name: &str, model: M) -> Result<M> {
        self.together(|open| {
            let (state, targets) = open.targets(name, &model, false)?;
            open.fill(name, model, state, targets)
        })
    }

    /// Loads a moving average, made as for a start without a save; its rate may be another one.
    ///
    /// # Errors
    /// As [`weights`](Self::weights) and [`state`](Self::state): [`Error::File`] if the save has no average of that name.
    pub fn average<M: Module>(&mut self, name: &str, average: Ema<M>) -> Result<Ema<M>> {
        let model = self.weights(name, average.model().clone())?;
        let progress: EmaProgress = self.state(name)?;
        Ok(average.resumed(model, progress))
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
        self.report.read_bytes = locked(&self.files).read_bytes();
        if let Some(world) = self.world.clone().filter(|_| is_whole) {
            let writer = Writer::of(&world, self.storage.path())?;
            world.together(WHAT, || {
                if world.is_chief() {
                    writer.claim().take_over(self.latest.take());
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

    pub(super) fn saved(&self, name: &str) -> Result<&SavedModel> {
        let model = self.manifest.models.get(name);
        model.ok_or_else(|| self.lacks("model", name, self.models()))
    }

    /// Reads what is saved into the model, and notes what is applied.
    fn fill<M: Module>(
        &mut self,
        name: &str,
        model: M,
        state: ModelState,
        targets: Targets,
    ) -> Result<M> {
        state.set_forwards(&self.saved(name)?.forwards);
        // As long as nobody else has a model's memory, the elements are read to it.
        drop(state);
        let mut fill = FillFromSave {
            files: &self.files,
            targets: &targets,
            missing: Vec::new(),
            failed: Ok(()),
        };
        let model = map_tensors(model, &mut fill);
        fill.failed?;
        let named = |path: &String| format!("{name}: {path}");
        let report = &mut self.report;
        report.missing.extend(fill.missing.iter().map(named));
        let saved = self.manifest.models.get(name);
        for tensor in saved.into_iter().flat_map(|model| &model.tensors) {
            let path = &tensor.facts.name;
            let list = if targets.contains_key(path) {
                &mut report.applied
            } else {
                &mut report.unused
            };
            list.push(named(path));
        }
        self.used.insert(format!("model {name}"));
        Ok(model)
    }
}
