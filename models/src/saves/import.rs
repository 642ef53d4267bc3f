//! A save of a file.

use super::adamw::{AdamWSettings, PREFIX};
use super::layout::Layout;
use super::loose_model::LooseModel;
use super::states::{States, Stepped, group, turned};
use super::tensor_files::TensorFiles;
use super::written::Written;
use burn::module::ParamGroup;
use burn::tensor::FloatDType;
use burn_dist::checkpoint::{Keep, Save};
use burn_dist::launch::Threads;
use burn_dist::{Error, Result, Strategy, World};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How a file becomes a save.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::Device};
/// use burn_dist::checkpoint::{OpenSave, Which};
/// use burn_dist::weights::Export;
/// use burn_dist_models::saves::{Import, TensorFiles};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let (run, out) = (folder.path().join("run"), folder.path().join("out"));
/// let layer = || LinearConfig::new(8, 4).init(&Device::flex());
/// Export::new().write(&layer(), &out)?; // model.safetensors
///
/// let files = TensorFiles::open(&out)?;
/// let imported = Import::default().write(&files, &run, |_bytes| {})?;
/// assert_eq!((imported.tensors, imported.settings), (2, None));
/// let _layer = OpenSave::new(&run, Which::Latest)?.weights("model", layer())?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
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
    /// Names of modules or parameters, each one part of a path, that do not decay, beside those that the settings name.
    pub no_decay: Vec<String>,
    /// Without the states of an optimizer, if the file has some.
    pub weights_only: bool,
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
            no_decay: Vec::new(),
            weights_only: false,
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
        let written = Written::of_file(files)?;
        let layout = match (self.layout, &written) {
            (Some(layout), _) => layout,
            (None, Some(_)) => Layout::Paths,
            (None, None) => Layout::of_names(own()),
        };
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
        let has_states = !self.weights_only && States::names(files).next().is_some();
        let settings = match (has_states, &self.settings) {
            (false, _) => None,
            (true, Some(settings)) => Some(settings.clone()),
            (true, None) => Some(AdamWSettings::of_file(files)?.unwrap_or_default()),
        };
        let task = Task {
            import: self,
            files,
            layout,
            sources,
            settings,
            frozen: written.unwrap_or_default().frozen,
        };
        Threads::new(1).run(|world| task.run(&world, run, &progress))?;
        Ok(Imported {
            layout,
            tensors: task.sources.len(),
            settings: task.settings,
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
        let Some(settings) = &self.settings else {
            return saves.save(save.weights(name, &model).state("state", state));
        };
        let exempt = self.exempt(settings, &parameters)?;
        let optimizer = world.optimizer(settings.optimizer(exempt), &model)?;
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

    /// The parameters that do not decay.
    ///
    /// # Errors
    /// [`Error::File`] for a name that no parameter has.
    fn exempt(
        &self,
        settings: &AdamWSettings,
        parameters: &[Stepped],
    ) -> Result<Option<ParamGroup>> {
        let (names, parts) = (&settings.no_decay, &self.import.no_decay);
        let source = |path: &str| self.sources.get(path).copied().unwrap_or_default();
        let has = |path: &str, part: &str| path.split('.').any(|name| name == part);
        let any =
            |is: &dyn Fn(&str) -> bool| parameters.iter().any(|parameter| is(&parameter.path));
        let odd = parts.iter().find(|part| !any(&|path| has(path, part)));
        let odd = odd.or_else(|| {
            names
                .iter()
                .find(|name| !any(&|path| source(path) == **name))
        });
        if let Some(odd) = odd {
            let expected = format!("a parameter {odd:?}, which is not to decay");
            return Err(Error::file(self.files.path(), expected, "none"));
        }
        Ok(group(parameters.iter(), |parameter| {
            let path = &parameter.path;
            let is_named = names.iter().any(|name| name == source(path));
            is_named || parts.iter().any(|part| has(path, part))
        }))
    }
}
