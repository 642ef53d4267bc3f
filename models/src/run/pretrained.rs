//! Pretrained weights and exports, in Hugging Face's layout.

use super::fetch;
use crate::hf::{HfName, class_names};
use burn::module::Module;
use burn::tensor::TensorData;
use burn_dist::weights::{Export, Name, Weights};
use burn_dist::{Error, Result, Strategy, World};
use std::path::{Path, PathBuf};

/// The arguments for pretrained weights and for the export of the trained model.
#[derive(Debug, Clone, Default, clap::Args, serde::Serialize)]
pub struct WeightArgs {
    /// Begin with these weights: a folder with config.json and model.safetensors, or a name on the
    /// Hugging Face hub, such as google/vit-base-patch16-224-in21k.
    #[arg(long, value_name = "DIR|NAME")]
    pub from: Option<String>,

    /// Initialise parameters of the body that the weights lack, instead of refusing them.
    #[arg(long, requires = "from")]
    pub allow_missing: bool,

    /// Export the trained model to this folder, for Hugging Face's transformers.
    #[arg(long, value_name = "DIR")]
    pub export: Option<PathBuf>,
}

impl WeightArgs {
    /// The pretrained checkpoint, fetched if it is not a folder. Collective.
    ///
    /// # Errors
    /// [`Error::User`] if it is neither a folder nor can be fetched; what a collective returns.
    pub fn pretrained(&self, world: &World) -> Result<Option<Pretrained>> {
        let Some(from) = &self.from else {
            return Ok(None);
        };
        let local = Path::new(from);
        let folder = if local.is_dir() {
            local.to_path_buf()
        } else {
            fetch::fetch(world, from)?
        };
        Ok(Some(Pretrained {
            folder,
            allow_missing: self.allow_missing,
            replaced: None,
        }))
    }

    /// Exports a model and the files that go with it, if `--export` is given. Collective.
    ///
    /// # Errors
    /// What [`World::export`] returns; [`Error::File`] if a file cannot be written.
    pub fn export_model<M: Module>(
        &self,
        world: &World,
        model: &M,
        names: impl Fn(&str) -> Option<HfName> + Send + Sync + 'static,
        beside: &[(&str, String)],
    ) -> Result<()> {
        let Some(folder) = &self.export else {
            return Ok(());
        };
        world.export(model, folder, &Export::new().named(names))?;
        if world.is_chief() {
            for (name, text) in beside {
                let path = folder.join(name);
                std::fs::write(&path, text).map_err(|e| Error::file(&path, "to be written", e))?;
            }
            log::info!("the model is in {}", folder.display());
        }
        Ok(())
    }
}

/// Shards a model, with pretrained weights if there are some; rank 0 logs which parameters have them.
/// Collective.
///
/// # Errors
/// Those of [`Strategy::shard`] and [`Strategy::shard_from`].
pub fn shard_pretrained<M: Module>(
    world: &World,
    strategy: Strategy,
    model: M,
    weights: Option<&Weights>,
) -> Result<M> {
    let Some(weights) = weights else {
        return strategy.shard(model, world);
    };
    let (model, report) = strategy.shard_from(model, world, weights)?;
    if world.is_chief() {
        log::info!("{report}");
    }
    Ok(model)
}

/// A checkpoint in a folder of this host.
#[derive(Debug, Clone)]
pub struct Pretrained {
    folder: PathBuf,
    /// Whether parameters of the body may be missing.
    allow_missing: bool,
    /// A tensor of other values than the files have.
    replaced: Option<(String, TensorData)>,
}

impl Pretrained {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same with these values for a tensor, by its name in the files.
    pub(super) fn with_tensor(mut self, name: String, data: TensorData) -> Self {
        self.replaced = Some((name, data));
        self
    }

    /// Its `config.json`, parsed by `read`.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing or not understood.
    pub fn config<T, E: std::fmt::Display>(
        &self,
        read: impl Fn(&str) -> std::result::Result<T, E>,
    ) -> Result<T> {
        let path = self.folder.join("config.json");
        let expected = "the configuration of a model that this program has";
        let wrong = |found: String| Error::file(&path, expected, found);
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
        read(&text).map_err(|e| wrong(e.to_string()))
    }

    /// The names of the classes that its head was trained on, if it has them.
    ///
    /// # Errors
    /// [`Error::File`] if its `config.json` is missing or not understood.
    pub fn classes(&self) -> Result<Option<Vec<String>>> {
        self.config(class_names)
    }

    /// Its weights, by our names; the classifier may be for other labels. In a checkpoint without a classifier, such
    /// as a masked language model's, the pooler may be missing too.
    ///
    /// # Errors
    /// What [`Weights::open`] returns.
    pub fn weights(
        &self,
        names: impl Fn(&str) -> Option<HfName> + Send + Sync + 'static,
    ) -> Result<Weights> {
        let mut weights = Weights::open(&self.folder)?.named(names);
        if let Some((name, data)) = &self.replaced {
            weights = weights.with_tensor(name, data.clone())?;
        }
        let mut tensors = weights.tensors();
        let new: &[&str] = if tensors.any(|(name, _)| name == "classifier.weight") {
            &["head"]
        } else {
            &["head", "pooler"]
        };
        drop(tensors);
        let weights = weights.may_differ(new.iter().copied());
        Ok(if self.allow_missing {
            weights.may_lack_parameters()
        } else {
            weights
        })
    }
}

impl From<HfName> for Name {
    fn from(hf: HfName) -> Self {
        let others = hf.others();
        let name = if hf.transpose {
            Self::new(hf.name).transposed()
        } else {
            Self::new(hf.name)
        };
        others.into_iter().fold(name, Self::or)
    }
}
