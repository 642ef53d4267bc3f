//! The export of a model's parameters to files, gathered one unit at a time.

use super::adapters::Merge;
use super::elements::file_float;
use super::name::{Name, Naming};
use super::writer::{Entry, Writer};
use crate::error::{Error, Result};
use crate::finite::{self, Looked, is_finite, not_finite};
use crate::shard::{StoredShards, StoredUnit, VisitTensors, visit_tensors};
use crate::world::World;
use burn::module::{Module, Param};
use burn::tensor::{DType, FloatDType, Tensor};
use std::path::Path;

/// The options of an export in Hugging Face's layout: names, type, and size of the files.
///
/// ```
/// use burn::tensor::FloatDType;
/// use burn_dist::weights::{Export, Name};
///
/// let export = Export::new()
///     .named(|path: &str| Some(Name::new(format!("model.{path}"))))
///     .dtype(FloatDType::BF16)
///     .max_file_bytes(1_000_000_000);
/// # let _ = export;
/// ```
#[derive(Debug, Clone)]
pub struct Export {
    naming: Naming,
    dtype: Option<DType>,
    max_file_bytes: u64,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            naming: Naming::default(),
            dtype: None,
            max_file_bytes: 5_000_000_000,
        }
    }
}

impl Export {
    /// Names and types of the model, in files of at most 5 GB.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the names of the parameters in the files, by module path; without this, they are the paths.
    pub fn named<N: Into<Name>>(
        mut self,
        naming: impl Fn(&str) -> Option<N> + Send + Sync + 'static,
    ) -> Self {
        self.naming = Naming::new(naming);
        self
    }

    /// Writes every parameter in this type; conversion rounds to the nearest value.
    pub fn dtype(mut self, dtype: FloatDType) -> Self {
        self.dtype = Some(dtype.into());
        self
    }

    /// The size at which a file is full. A tensor that is larger has a file of its own.
    pub fn max_file_bytes(mut self, bytes: u64) -> Self {
        self.max_file_bytes = bytes;
        self
    }

    /// Writes a plain Burn model to a folder: `model.safetensors`, or several files and an index.
    ///
    /// The files of an earlier export are replaced once the new ones are complete.
    ///
    /// # Cost
    /// One parameter at a time is copied.
    ///
    /// # Errors
    /// [`Error::File`] where a file cannot be written; [`Error::Model`] for a parameter without a
    /// name, for one that takes gradients and is not finite, and for a sharded model.
    pub fn write<M: Module>(&self, model: &M, folder: impl AsRef<Path>) -> Result<()> {
        if StoredShards::of_sharded(model).is_ok() {
            return Err(Error::model(
                "this model",
                "is sharded, and this rank has only its shards",
                "call world.export on every rank",
            ));
        }
        let mut write = WritePlain {
            entries: Vec::new(),
            export: self,
            writer: None,
            result: Ok(()),
        };
        visit_tensors(model, &mut write);
        write.result?;
        let entries = std::mem::take(&mut write.entries);
        write.writer = Some(Writer::new(folder.as_ref(), entries, self.max_file_bytes)?);
        write.result = Ok(());
        visit_tensors(model, &mut write);
        write.result?;
        write.writer.map_or(Ok(()), Writer::finish)
    }

    /// The name, shape and type with which a parameter is written.
    fn entry(&self, path: &str, shape: &[usize], stored: DType) -> Result<Entry> {
        self.named_entry(path, self.name(path)?, shape, stored)
    }

    /// The name of a parameter.
    pub(super) fn name(&self, path: &str) -> Result<Name> {
        self.naming.of(path).ok_or_else(|| {
            Error::model(
                path,
                "has no name in the files",
                "name every parameter in Export::named",
            )
        })
    }

    /// A tensor of this name.
    pub(super) fn named_entry(
        &self,
        path: &str,
        name: Name,
        shape: &[usize],
        stored: DType,
    ) -> Result<Entry> {
        let dtype = self.dtype.unwrap_or(stored);
        if let Some(odd) = [stored, dtype]
            .into_iter()
            .find(|d| file_float(*d).is_none())
        {
            return Err(Error::model(
                path,
                format!("is of type {}, which these files do not have", odd.name()),
                "choose f64, f32, f16 or bf16 with Export::dtype, and for the model",
            ));
        }
        Ok(Entry {
            shape: name.shape_in_file(shape),
            transposed: name.transposed,
            name: name.name,
            dtype,
        })
    }
}

impl World {
    /// Writes the parameters of a sharded model to a folder, in files that other programs read. Low-rank adapters are merged into
    /// the weights; [`export_adapters`](Self::export_adapters) writes them alone.
    ///
    /// Rank 0 writes `model.safetensors`, or several files and an index; the files of an earlier
    /// export are replaced once the new ones are complete. To resume training use
    /// [`save`](Self::save), which is faster and keeps the optimizer. Collective.
    ///
    /// # Cost
    /// One all-gather per unit; no rank holds more than one unit beside its shard.
    ///
    /// # Errors
    /// [`Error::File`] where a file cannot be written; [`Error::Model`] for a parameter without a
    /// name, if `model` was not sharded, and for trainable parameters or running state that are not
    /// finite, naming the first. What fails on one rank fails on all, and an earlier export is
    /// untouched.
    ///
    /// # Source
    /// `save_pretrained` in Hugging Face's `transformers`.
    pub fn export<M: Module>(
        &self,
        model: &M,
        folder: impl AsRef<Path>,
        export: &Export,
    ) -> Result<()> {
        const WHAT: &str = "export the model";
        let mut looked = Looked::default();
        self.together(WHAT, || {
            looked = Looked::at(model)?;
            Ok([0; 2])
        })?;
        finite::agree(self.comm(), looked.first, WHAT, |first| looked.name(first))?;
        let mut ready = None;
        self.together(WHAT, || {
            let stored = StoredShards::of_sharded(model)?;
            let merge = Merge::of(&stored);
            let mut entries = Vec::new();
            for layout in stored.units.iter().map(StoredUnit::layout) {
                let slots = layout.slots.iter();
                for slot in slots.filter(|slot| !merge.is_factor(&slot.path)) {
                    entries.push(export.entry(&slot.path, &slot.shape, slot.dtype)?);
                }
            }
            for state in &stored.plain {
                entries.push(export.entry(&state.path, &state.shape, state.dtype)?);
            }
            let start = || Writer::new(folder.as_ref(), entries, export.max_file_bytes);
            let writer = self.is_chief().then(start).transpose()?;
            ready = Some((stored, merge, writer));
            Ok([0; 2])
        })?;
        let Some((stored, mut merge, mut writer)) = ready else {
            return Ok(());
        };
        merge.gather(&stored, self.is_chief())?;
        // If writing fails on rank 0, it still takes part in all gathers, and reports the error at the end.
        let mut written = Ok(());
        stored.gather_each(|layout, flat| {
            if let (Some(writer), Ok(())) = (&mut writer, &written) {
                written = merge.put(writer, layout, flat);
            }
        })?;
        self.together(WHAT, || {
            written?;
            // After an aborted collective, data that was read from a GPU may be incomplete.
            self.comm().fault().map_or(Ok(()), Err)?;
            if let Some(mut writer) = writer {
                for state in &stored.plain {
                    writer.put(&state.stored.read()?, state.dtype)?;
                }
                writer.finish()?;
            }
            Ok([0; 2])
        })?;
        Ok(())
    }
}

/// Visits a plain model twice: to collect the entries, and to write the elements.
struct WritePlain<'a> {
    entries: Vec<Entry>,
    export: &'a Export,
    writer: Option<Writer>,
    result: Result<()>,
}

impl VisitTensors for WritePlain<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        if self.result.is_err() {
            return;
        }
        let value = param.val();
        match &mut self.writer {
            None => {
                if value.is_require_grad() {
                    let data = value.clone().into_data();
                    if !is_finite(data.as_bytes(), data.dtype()) {
                        self.result = Err(not_finite(path, None));
                        return;
                    }
                }
                let entry = self.export.entry(path, &value.dims(), value.dtype());
                self.result = entry.map(|entry| self.entries.push(entry));
            }
            Some(writer) => {
                let data = value.into_data();
                self.result = writer.put(data.as_bytes(), data.dtype());
            }
        }
    }
}
