//! A file of a save.

use super::adamw::{DIMENSIONS, MOMENTS, STEPS, state_name};
use super::layout::Layout;
use super::refused::refused;
use super::tensor_files::{OPTIMIZER, file_type};
use super::transposed::transposed;
use super::written::{KEY, Written};
use crate::hf::HfName;
use burn_dist::checkpoint::{ModelContents, SaveContents, TensorContents, TensorKind};
use burn_dist::{Error, Result};
use safetensors::tensor::{Dtype, View, serialize_to_file};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The name of a file in a folder, of the model.
const MODEL: &str = "model.safetensors";

/// How a save becomes a file.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn_dist::checkpoint::{Save, SaveContents, Which};
/// use burn_dist::prelude::*;
/// use burn_dist_models::saves::Export;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let (run, file) = (folder.path().join("run"), folder.path().join("layer.safetensors"));
/// Threads::new(2).run(|world| {
///     let layer = LinearConfig::new(8, 4).init(&world.device());
///     let layer = Strategy::fsdp().shard(layer, &world)?;
///     world.checkpointer(&run)?.save(Save::new(1).weights("model", &layer))
/// })?;
/// let save = SaveContents::open(&run, Which::Latest)?;
/// let written = Export::default().write(&save, &file, |_bytes| {})?;
/// assert_eq!(written, [file]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Export {
    /// The model; without this, the only one of the save.
    pub model: Option<String>,
    /// Under Hugging Face's names, instead of paths.
    pub hugging_face: bool,
    /// With the states of AdamW.
    pub with_optimizer: bool,
}

/// A tensor of a file.
struct Entry<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    source: Source<'a>,
    reading: &'a Reading<'a>,
}

enum Source<'a> {
    /// A tensor of the save, which is a matrix of these rows and columns if it is to be transposed.
    Saved(&'a TensorContents, Option<[usize; 2]>),
    /// A number of steps, which PyTorch keeps as an f32.
    Steps(f32),
}

/// What is read of, and the first failure: a view cannot return one.
struct Reading<'a> {
    save: &'a SaveContents,
    failed: Mutex<Option<Error>>,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl View for &Entry<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data_len(&self) -> usize {
        match self.source {
            Source::Saved(tensor, _) => tensor.bytes(),
            Source::Steps(_) => 4,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let (tensor, matrix) = match self.source {
            Source::Saved(tensor, matrix) => (tensor, matrix),
            Source::Steps(steps) => return steps.to_le_bytes().to_vec().into(),
        };
        let mut bytes = vec![0; self.data_len()];
        let mut failed = self.reading.lock();
        if failed.is_none() {
            let read = self
                .reading
                .save
                .read(tensor, 0..tensor.elements(), &mut bytes);
            *failed = read.err();
        }
        (self.reading.progress)(bytes.len() as u64);
        match matrix {
            None => bytes.into(),
            Some(matrix) => transposed(&bytes, matrix, tensor.dtype.size()).into(),
        }
    }
}

impl Reading<'_> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Export {
    /// The bytes of the tensors that are written.
    ///
    /// # Errors
    /// [`Error::Config`] if the save has no such model, or several and none is chosen.
    pub fn bytes(&self, save: &SaveContents) -> Result<u64> {
        let (_, model) = self.model(save)?;
        let states = model.optimizer.iter().flat_map(|o| &o.tensors);
        let states = states.filter(|_| self.with_optimizer);
        let all = model.tensors.iter().chain(states);
        Ok(all.map(|tensor| tensor.bytes() as u64).sum())
    }

    /// Writes a file whose name ends in `.safetensors`, or to a folder `model.safetensors` and, with an optimizer,
    /// `optimizer.safetensors`; returns their paths. `progress` is called with the bytes of each tensor.
    ///
    /// # Cost
    /// One tensor at a time is in memory. What was there is replaced when all is written.
    ///
    /// # Errors
    /// [`Error::File`] if the save is damaged, or a file cannot be written; [`Error::Config`] if the save has no such
    /// model, no optimizer, or another one than AdamW; [`Error::Model`] for a model that is not one of Hugging Face's.
    pub fn write(
        &self,
        save: &SaveContents,
        out: &Path,
        progress: impl Fn(u64) + Sync,
    ) -> Result<Vec<PathBuf>> {
        let (name, model) = self.model(save)?;
        let layout = self.layout(model)?;
        let reading = Reading {
            save,
            failed: Mutex::new(None),
            progress: &progress,
        };
        let mut entries = Vec::new();
        let mut says = Written::default();
        for tensor in &model.tensors {
            let named = named(layout, &tensor.name)?;
            if tensor.dtype.is_float() && tensor.kind != TensorKind::Trainable {
                says.frozen.insert(named.name.clone());
            }
            entries.push(saved(named.name, tensor, named.transpose, &reading)?);
        }
        let states = if self.with_optimizer {
            states(name, model, layout, &reading)?
        } else {
            Vec::new()
        };
        let metadata = if layout == Layout::Paths {
            let text = serde_json::to_string(&says);
            (
                KEY,
                text.map_err(|e| Error::file(out, "names that JSON can hold", e))?,
            )
        } else {
            // Without it, transformers refuses a file.
            ("format", "pt".to_string())
        };
        if out.extension().is_some_and(|e| e == "safetensors") {
            entries.extend(states);
            write(&entries, &metadata, out, &reading)?;
            return Ok(vec![out.to_path_buf()]);
        }
        let failed = |e: std::io::Error| Error::file(out, "a folder that can be made", e);
        std::fs::create_dir_all(out).map_err(failed)?;
        let mut written = vec![out.join(MODEL)];
        write(&entries, &metadata, &written[0], &reading)?;
        if self.with_optimizer {
            written.push(out.join(OPTIMIZER));
            write(&states, &metadata, &written[1], &reading)?;
        }
        Ok(written)
    }

    fn model<'a>(&self, save: &'a SaveContents) -> Result<(&'a str, &'a ModelContents)> {
        let mut all = save
            .models
            .iter()
            .map(|(name, model)| (name.as_str(), model));
        let found = match (&self.model, save.models.len()) {
            (Some(wanted), _) => all.find(|(name, _)| name == wanted),
            (None, 1) => all.next(),
            (None, _) => None,
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = save.models.keys().map(String::as_str).collect();
            let expected = match &self.model {
                Some(wanted) => format!("{wanted:?}"),
                None => "the name of one of them (--model)".into(),
            };
            Error::config("the model of the save", expected, names.join(", "))
        })
    }

    fn layout(&self, model: &ModelContents) -> Result<Layout> {
        if !self.hugging_face {
            return Ok(Layout::Paths);
        }
        let paths = model.tensors.iter().map(|tensor| tensor.name.as_str());
        if let Some(layout) = Layout::of_paths(paths.clone()) {
            return Ok(layout);
        }
        // The one that comes nearest tells which tensor is odd.
        let layouts = [Layout::Vit, Layout::Bert, Layout::DistilBert];
        let odd = |layout: &Layout| paths.clone().find(|path| layout.name(path).is_none());
        let counts = |layout: &Layout| {
            let known = paths.clone().filter(|path| layout.name(path).is_some());
            known.count()
        };
        let nearest = layouts.iter().max_by_key(|layout| counts(layout));
        let odd = nearest.and_then(odd).unwrap_or("this model");
        Err(refused(
            odd,
            "has no name in Hugging Face's ViT, BERT or DistilBERT",
            "export the save with its paths as names (--layout paths)",
        ))
    }
}

fn named(layout: Layout, path: &str) -> Result<HfName> {
    layout.name(path).ok_or_else(|| {
        let problem = format!("has no name in the layout of {layout}");
        refused(path, problem, "export with --layout paths")
    })
}

fn saved<'a>(
    name: String,
    tensor: &'a TensorContents,
    transpose: bool,
    reading: &'a Reading<'a>,
) -> Result<Entry<'a>> {
    let dtype = file_type(tensor.dtype).ok_or_else(|| {
        let problem = format!("is {}, as the codes of quantized weights are", tensor.dtype.name());
        let remedy = "export from the program that trains, with World::export (--export of the examples), which dequantizes";
        refused(&tensor.name, problem, remedy)
    })?;
    let matrix = match (transpose, &tensor.shape[..]) {
        (true, &[rows, columns]) => Some([rows, columns]),
        _ => None,
    };
    Ok(Entry {
        name,
        dtype,
        shape: matrix.map_or(tensor.shape.clone(), |[rows, columns]| vec![columns, rows]),
        source: Source::Saved(tensor, matrix),
        reading,
    })
}

/// The states of a model's AdamW, under PyTorch's names.
fn states<'a>(
    model: &str,
    contents: &'a ModelContents,
    layout: Layout,
    reading: &'a Reading<'a>,
) -> Result<Vec<Entry<'a>>> {
    let what = format!("the optimizer of {model}");
    let other = |found: String| {
        let expected = "an AdamW (leave out --with-optimizer for any other)";
        Error::config(what.clone(), expected, found)
    };
    let Some(optimizer) = &contents.optimizer else {
        return Err(other("a model that was saved without one".into()));
    };
    let mut entries = Vec::new();
    for tensor in &optimizer.tensors {
        let parts = tensor.name.split_once('/').and_then(|(path, field)| {
            let (state, _) = MOMENTS.iter().find(|(_, ours)| *ours == field)?;
            Some((path, state))
        });
        let (path, state) = parts.ok_or_else(|| other(format!("a state {}", tensor.name)))?;
        let named = named(layout, path)?;
        let name = state_name(state, &named.name);
        entries.push(saved(name, tensor, named.transpose, reading)?);
    }
    for (name, text) in &optimizer.scalars {
        let Some((path, field)) = name.split_once('/') else {
            return Err(other(format!("a number {name}")));
        };
        if field == DIMENSIONS {
            continue;
        }
        let number = text
            .split_once(' ')
            .and_then(|(_, n)| n.parse::<f32>().ok());
        let steps = number.filter(|_| field == STEPS.1);
        let steps = steps.ok_or_else(|| other(format!("a number {name} = {text}")))?;
        entries.push(Entry {
            name: state_name(STEPS.0, &named(layout, path)?.name),
            dtype: Dtype::F32,
            shape: Vec::new(),
            source: Source::Steps(steps),
            reading,
        });
    }
    Ok(entries)
}

fn write(
    entries: &[Entry<'_>],
    (key, text): &(&str, String),
    path: &Path,
    reading: &Reading<'_>,
) -> Result<()> {
    // It is renamed when all of it was read well: a damaged save replaces nothing.
    let partial = path.with_extension("safetensors.partial");
    let tensors = entries.iter().map(|entry| (entry.name.as_str(), entry));
    let expected = "to be written";
    let metadata = HashMap::from([(key.to_string(), text.clone())]);
    let failed = |e: &dyn std::fmt::Display| Error::file(path, expected, e);
    // The crate makes files that their owner alone may read; the usual rights are those of a new file.
    let made = File::create(&partial).and_then(|file| Ok(file.metadata()?.permissions()));
    let written = made.map_err(|e| failed(&e)).and_then(|rights| {
        let written = serialize_to_file(tensors, Some(metadata), &partial);
        written.map_err(|e| failed(&e))?;
        std::fs::set_permissions(&partial, rights).map_err(|e| failed(&e))
    });
    let read = reading.lock().clone().map_or(Ok(()), Err);
    let done = written.and(read).and_then(|()| {
        let renamed = std::fs::rename(&partial, path);
        renamed.map_err(|e| failed(&e))
    });
    if done.is_err() {
        // What could not be written is not there either.
        let _ = std::fs::remove_file(&partial);
    }
    done
}
