//! Weights to begin with and to leave behind, in Hugging Face's layout.

use super::fetch;
use crate::hf::{HfName, class_names};
use burn::module::Module;
use burn_dist::weights::{Export, Name, Weights};
use burn_dist::{Error, Result, Strategy, World};
use std::path::{Path, PathBuf};

/// The part of a command line that says which weights to begin with, and where to leave them.
#[derive(Debug, Clone, Default, clap::Args, serde::Serialize)]
pub struct WeightArgs {
    /// Begin with these weights: a folder with config.json and model.safetensors, or a name on the
    /// Hugging Face hub, such as google/vit-base-patch16-224-in21k.
    #[arg(long, value_name = "DIR|NAME")]
    pub from: Option<String>,

    /// Draw anew what the weights lack beside the head, instead of refusing them.
    #[arg(long, requires = "from")]
    pub allow_missing: bool,

    /// Leave the trained model in this folder, for Hugging Face's transformers to open.
    #[arg(long, value_name = "DIR")]
    pub export: Option<PathBuf>,
}

impl WeightArgs {
    /// The checkpoint to begin with, fetched if need be. Collective.
    ///
    /// # Errors
    /// [`Error::User`] if it is neither here nor to be had; what a collective returns.
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
            may_lack: self.allow_missing,
        }))
    }

    /// Leaves a model behind, where that was asked for, with files that belong beside it. Collective.
    ///
    /// # Errors
    /// What [`World::export`] returns; [`Error::File`] if a file cannot be written.
    pub fn leave<M: Module>(
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

/// Spreads a model over the ranks, with weights to begin with if there are some; rank 0 says which of its
/// parameters have them. Collective.
///
/// # Errors
/// Those of [`Strategy::shard`] and [`Strategy::shard_from`].
pub fn sharded<M: Module>(
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
    may_lack: bool,
}

impl Pretrained {
    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What its `config.json` says, as `read` understands it.
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

    /// Its weights, by our names; the classifier may be for other labels. Where there is none, as beside a
    /// masked language model, what leads to it (the pooler) may be missing too.
    ///
    /// # Errors
    /// What [`Weights::open`] returns.
    pub fn weights(
        &self,
        names: impl Fn(&str) -> Option<HfName> + Send + Sync + 'static,
    ) -> Result<Weights> {
        let weights = Weights::open(&self.folder)?.named(names);
        let mut tensors = weights.tensors();
        let new: &[&str] = if tensors.any(|(name, _)| name == "classifier.weight") {
            &["head"]
        } else {
            &["head", "pooler"]
        };
        drop(tensors);
        let weights = weights.may_differ(new.iter().copied());
        Ok(if self.may_lack {
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
