//! What one save holds.

use super::listing::metrics;
use crate::checkpoint::format::{
    DataFiles, Kind, Manifest, Piece, SavedModel, SavedTensor, model_tensor, optimizer_tensor,
};
use crate::checkpoint::open_save::{Which, find};
use crate::checkpoint::storage;
use crate::error::{Error, Result};
use burn::tensor::DType;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What one save holds; the elements of a tensor are read where they are asked for.
///
/// ```
/// use burn::{nn::LinearConfig, optim::AdamWConfig};
/// use burn_dist::checkpoint::{SaveContents, Which};
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
/// let save = SaveContents::open(folder, Which::Latest)?;
/// let weight = &save.models["model"].tensors[0];
/// assert_eq!((weight.name.as_str(), &weight.shape[..]), ("weight", &[8, 4][..]));
/// assert_eq!(weight.pieces.len(), 3);
/// // Elements 5 to 10, in whichever files they are.
/// let mut bytes = [0; 20];
/// save.read(weight, 5..10, &mut bytes)?;
/// assert_eq!(save.states["state"], "7");
/// save.verify(|_| {})?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct SaveContents {
    /// Its folder.
    pub path: PathBuf,
    /// The step that it was made at.
    pub step: u64,
    /// Counts the saves of the run.
    pub sequence: u64,
    /// The number of ranks that wrote it.
    pub ranks: usize,
    /// What was measured for it, by name.
    pub metrics: BTreeMap<String, f64>,
    /// Its data files.
    pub files: Vec<SaveFile>,
    /// Its models, by name.
    pub models: BTreeMap<String, ModelContents>,
    /// Its states, by name, as JSON.
    pub states: BTreeMap<String, String>,
    read: Mutex<DataFiles>,
}

/// A data file of a save.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveFile {
    /// Its name in the save's folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// A model of a save.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ModelContents {
    /// The strategies that it was sharded under.
    pub strategy: String,
    /// Forwards in training so far, from which dropout draws, by the path of each part that was sharded by itself.
    pub forwards: BTreeMap<String, u64>,
    /// Its parameters and buffers, in the order of the model.
    pub tensors: Vec<TensorContents>,
    /// Its optimizer, if it was saved with one.
    pub optimizer: Option<OptimizerContents>,
}

/// An optimizer of a save.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OptimizerContents {
    /// Its states, named by the path of a parameter, `/` and a field.
    pub tensors: Vec<TensorContents>,
    /// Its numbers, such as the steps taken, with their type (`int 3`), named as the states.
    pub scalars: BTreeMap<String, String>,
}

/// A tensor of a save.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TensorContents {
    /// The path in the model; of an optimizer's state, `/` and a field follow.
    pub name: String,
    /// The full shape.
    pub shape: Vec<usize>,
    /// The type of its elements.
    pub dtype: DType,
    /// What it is to training.
    pub kind: TensorKind,
    /// Which file, by its index in [`SaveContents::files`], holds which elements, counted in row-major order.
    pub pieces: Vec<(usize, Range<usize>)>,
    /// The name in the data files.
    key: String,
    saved: SavedTensor,
}

/// What a tensor is to training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorKind {
    /// A parameter that takes gradients.
    Trainable,
    /// A parameter that takes none.
    Frozen,
    /// Running state, such as a batch norm's.
    Buffer,
    /// An optimizer's state of a parameter.
    State,
}

impl TensorContents {
    /// The number of its elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes of its elements.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    fn of(saved: &SavedTensor, key: String) -> Result<Self> {
        let facts = &saved.facts;
        let piece = |&Piece { file, start, end }: &Piece| (file, start..end);
        Ok(Self {
            name: facts.name.clone(),
            shape: facts.shape.clone(),
            // A manifest with another type is refused when it is read.
            dtype: facts.dtype().ok_or_else(|| {
                Error::config("the type of a tensor", "one that saves hold", &facts.dtype)
            })?,
            kind: match facts.kind {
                Kind::Trainable => TensorKind::Trainable,
                Kind::Frozen => TensorKind::Frozen,
                Kind::Buffer => TensorKind::Buffer,
                Kind::State => TensorKind::State,
            },
            pieces: saved.pieces.iter().map(piece).collect(),
            key,
            saved: saved.clone(),
        })
    }
}

impl ModelContents {
    fn of(name: &str, saved: &SavedModel) -> Result<Self> {
        let tensors = saved.tensors.iter();
        let tensors = tensors.map(|t| TensorContents::of(t, model_tensor(name, &t.facts.name)));
        let optimizer = saved.optimizer.as_ref().map(|optimizer| {
            let states = optimizer.tensors.iter();
            let states =
                states.map(|t| TensorContents::of(t, optimizer_tensor(name, &t.facts.name)));
            Ok::<_, Error>(OptimizerContents {
                tensors: states.collect::<Result<_>>()?,
                scalars: optimizer.scalars.clone(),
            })
        });
        Ok(Self {
            strategy: saved.strategy.clone(),
            forwards: saved.forwards.clone(),
            tensors: tensors.collect::<Result<_>>()?,
            optimizer: optimizer.transpose()?,
        })
    }
}

impl SaveContents {
    /// Reads the manifest of a save.
    ///
    /// # Cost
    /// No data file is opened.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such save, or its manifest is damaged.
    pub fn open(run: impl AsRef<Path>, which: Which) -> Result<Self> {
        let storage = storage::open(run.as_ref())?;
        let (name, text) = find(&*storage, which)?;
        let path = storage.save(&name);
        let manifest = Manifest::parse(&text, &path)?;
        let models = manifest.models.iter();
        let models =
            models.map(|(name, model)| Ok((name.clone(), ModelContents::of(name, model)?)));
        let files = manifest.files.iter().map(|file| SaveFile {
            name: file.name.clone(),
            bytes: file.bytes,
        });
        let states = manifest.states.iter();
        let states = states.map(|(name, state)| (name.clone(), state.json().to_string()));
        Ok(Self {
            step: manifest.step,
            sequence: manifest.sequence,
            ranks: manifest.ranks,
            metrics: metrics(&manifest),
            files: files.collect(),
            models: models.collect::<Result<_>>()?,
            states: states.collect(),
            read: Mutex::new(DataFiles::new(storage, &name, path.clone(), manifest.files)),
            path,
        })
    }

    /// Reads the elements `elements` of a tensor of this save to `into`, little endian.
    ///
    /// # Cost
    /// Of the files that hold some of them, the blocks of 2<sup>20</sup> bytes that do, once more for their checksums.
    ///
    /// # Errors
    /// [`Error::File`] if a file is missing or damaged, naming file and tensor; [`Error::Config`] for elements that
    /// the tensor has not.
    pub fn read(
        &self,
        tensor: &TensorContents,
        elements: Range<usize>,
        into: &mut [u8],
    ) -> Result<()> {
        let all = tensor.elements();
        if elements.start > elements.end || elements.end > all {
            let what = format!("elements of {}", tensor.name);
            let expected = format!("some of 0..{all}");
            return Err(Error::config(what, expected, format!("{elements:?}")));
        }
        let mut files = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        files.read(&tensor.saved, &tensor.key, elements, into)
    }

    /// Reads every file of the save, and verifies every byte of it; `progress` is called with the bytes of each block.
    ///
    /// # Errors
    /// [`Error::File`] for the first file that is missing or damaged. For a damaged block it names the tensors in it.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<()> {
        (0..self.files.len()).try_for_each(|file| self.verify_file(file, &mut progress))
    }

    /// The same of one file, by its index.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), for this file.
    pub fn verify_file(&self, file: usize, progress: impl FnMut(u64)) -> Result<()> {
        let files = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        files.verify(file, progress)
    }
}
