//! A save of a file.

use super::adamw::{AdamWSettings, PREFIX, States, Stepped, turned};
use super::export::FROZEN;
use super::layout::Layout;
use super::loose_model::LooseModel;
use super::tensor_files::TensorFiles;
use burn::tensor::FloatDType;
use burn_dist::checkpoint::{Keep, Save};
use burn_dist::launch::Threads;
use burn_dist::{Error, Result, Strategy, World};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How a file becomes a save.
#[derive(Debug, Clone)]
pub struct Import {
    /// The names in the file; without this, they tell it.
    pub layout: Option<Layout>,
    /// The name of the model in the save; `model` is the one that `World::load` reads.
    pub model: String,
    /// The step of the save.
    pub step: u64,
    /// The type of floats in the save; without this, that of each tensor in the file.
    pub dtype: Option<FloatDType>,
    /// The settings of the optimizer; without this, those of the file, or PyTorch's.
    pub settings: Option<AdamWSettings>,
    /// The state of the save, which `World::load` reads.
    pub state: Value,
}

/// What an import has made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Imported {
    /// The names in the file.
    pub layout: Layout,
    /// How many tensors the model has.
    pub tensors: usize,
    /// The settings of the optimizer, if the file has the states of one.
    pub settings: Option<AdamWSettings>,
    /// Names of tensors that no parameter of such a model has.
    pub ignored: Vec<String>,
}

impl Default for Import {
    fn default() -> Self {
        Self {
            layout: None,
            model: "model".into(),
            step: 0,
            dtype: None,
            settings: None,
            state: Value::Null,
        }
    }
}

impl Import {
    /// Makes a save in the folder of a run, which must have no other; `progress` is called with the bytes of each tensor.
    ///
    /// # Cost
    /// The model and the optimizer's states are in memory, the states twice.
    ///
    /// # Errors
    /// [`Error::File`] for a file without tensors of a model, with states of another optimizer or some that are missing,
    /// and for a folder that cannot be written to or has saves; [`Error::Model`] for tensors that no save holds.
    pub fn write(
        &self,
        files: &TensorFiles,
        run: &Path,
        progress: impl Fn(u64) + Sync,
    ) -> Result<Imported> {
        let own = || files.names().filter(|name| !name.starts_with(PREFIX));
        let layout = self.layout.unwrap_or_else(|| Layout::of_names(own()));
        let mut sources: BTreeMap<String, &str> = BTreeMap::new();
        let mut ignored = Vec::new();
        for name in own() {
            let Some(path) = layout.path(name) else {
                ignored.push(name.to_string());
                continue;
            };
            if let Some(other) = sources.insert(path.clone(), name) {
                let expected = format!("one tensor for {path}");
                let found = format!("{other} and {name}");
                return Err(Error::file(files.path(), expected, found));
            }
        }
        if sources.is_empty() {
            let expected = format!("tensors under the names of {layout}");
            let found = ignored.first().map_or("none", |name| name);
            return Err(Error::file(files.path(), expected, found));
        }
        let settings = match States::names(files).next() {
            None => None,
            Some(_) => Some(match self.settings {
                Some(settings) => settings,
                None => AdamWSettings::of_file(files)?.unwrap_or_default(),
            }),
        };
        let task = Task {
            import: self,
            files,
            layout,
            sources,
            settings,
            frozen: frozen(files)?,
        };
        Threads::new(1).run(|world| task.run(&world, run, &progress))?;
        Ok(Imported {
            layout,
            tensors: task.sources.len(),
            settings,
            ignored,
        })
    }
}

/// An import whose names are known.
struct Task<'a> {
    import: &'a Import,
    files: &'a TensorFiles,
    layout: Layout,
    /// The names in the file, by path.
    sources: BTreeMap<String, &'a str>,
    settings: Option<AdamWSettings>,
    /// Names of what takes no gradients.
    frozen: BTreeSet<String>,
}

impl Task<'_> {
    fn transposes(&self, path: &str) -> bool {
        self.layout.name(path).is_some_and(|name| name.transpose)
    }

    fn run(&self, world: &World, run: &Path, progress: &(impl Fn(u64) + Sync)) -> Result<()> {
        // First, so that a folder in use is an error before anything is read.
        let mut saves = world.checkpointer(run)?.keep(Keep::all());
        let mut model = LooseModel::default();
        for (path, name) in &self.sources {
            let mut data = turned(self.files.read(name)?, self.transposes(path));
            if let Some(dtype) = self.import.dtype
                && data.dtype().is_float()
            {
                data = data.convert_dtype(dtype.into());
            }
            model.add(path, data, !self.frozen.contains(*name), &world.device())?;
            progress(self.files.bytes(name));
        }
        let parameters = Stepped::all(&model);
        let model = Strategy::single().shard(model, world)?;
        let save = Save::new(self.import.step);
        let (name, state) = (&self.import.model, &self.import.state);
        let Some(settings) = self.settings else {
            return saves.save(save.weights(name, &model).state("state", state));
        };
        let optimizer = world.optimizer(settings.optimizer(), &model)?;
        let mut states = States::new(self.files, settings);
        for parameter in &parameters {
            let Some(name) = self.sources.get(&parameter.path) else {
                continue;
            };
            states.read(parameter, name, self.transposes(&parameter.path))?;
            // Of the moments, each as large as it.
            progress(2 * self.files.bytes(name));
        }
        let optimizer = states.load(optimizer)?;
        saves.save(save.model(name, &model, &optimizer).state("state", state))
    }
}

/// The names of what takes no gradients, of a file that `Export` has written.
fn frozen(files: &TensorFiles) -> Result<BTreeSet<String>> {
    let Some(text) = files.metadata(FROZEN) else {
        return Ok(BTreeSet::new());
    };
    let expected = format!("in its metadata, under `{FROZEN}`, a list of names");
    serde_json::from_str(text)
        .map_err(|e| Error::file(files.path(), expected, format!("{text:?}: {e}")))
}
