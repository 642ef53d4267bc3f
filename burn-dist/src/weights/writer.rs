//! The writer of a checkpoint's files, one tensor after the other.
//!
//! The file and offset of every tensor are known before the first byte is written, so that headers are
//! written first and no tensor is buffered. Files have temporary names until all are complete.

use super::elements::{Elements, file_float};
use super::files::{INDEX, Index, IndexMetadata, SINGLE};
use crate::error::{Error, Result};
use burn::tensor::DType;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Elements that are converted at a time.
const CHUNK: usize = 1 << 16;

/// What the names of a whole model's files begin with.
const MODEL: &str = "model";

/// A tensor that is going to be written.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// As in the file.
    pub(super) shape: Vec<usize>,
    /// As in the file.
    pub(super) dtype: DType,
    /// The elements that are [put](Writer::put) are those of the transpose.
    pub(super) transposed: bool,
}

impl Entry {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }
}

/// The files of a checkpoint while they are being written.
#[derive(Debug)]
pub(super) struct Writer {
    folder: PathBuf,
    /// The names of the files up to their numbers.
    stem: String,
    /// What the headers say beside the layout.
    metadata: HashMap<String, String>,
    entries: Vec<Entry>,
    /// The range of entries in each file.
    files: Vec<Range<usize>>,
    /// The next entry to be put.
    next: usize,
    /// The file of that entry, if it was created.
    open: Option<(PathBuf, BufWriter<File>)>,
    finished: bool,
}

impl Writer {
    /// # Errors
    /// [`Error::File`] if the folder cannot be made; [`Error::Model`] if two tensors have one name.
    pub(super) fn new(folder: &Path, entries: Vec<Entry>, most_bytes: u64) -> Result<Self> {
        Self::named(folder, MODEL, entries, most_bytes)
    }

    /// The same for one file of another name, with more metadata in its header.
    pub(super) fn single(
        folder: &Path,
        stem: &str,
        entries: Vec<Entry>,
        metadata: &[(&str, &str)],
    ) -> Result<Self> {
        let mut writer = Self::named(folder, stem, entries, u64::MAX)?;
        let metadata = metadata
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()));
        writer.metadata.extend(metadata);
        Ok(writer)
    }

    fn named(folder: &Path, stem: &str, entries: Vec<Entry>, most_bytes: u64) -> Result<Self> {
        let mut names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::model(
                twice[0],
                "is the name of two parameters",
                "give each parameter a name of its own",
            ));
        }
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::file(folder, "a folder that can be made", e))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            stem: stem.into(),
            // Python's transformers refuses files that do not say whose layout they have.
            metadata: HashMap::from([("format".to_string(), "pt".to_string())]),
            files: divide(&entries, most_bytes),
            entries,
            next: 0,
            open: None,
            finished: false,
        })
    }

    /// Writes the next tensor, whose elements lie as in the model.
    pub(super) fn put(&mut self, bytes: &[u8], dtype: DType) -> Result<()> {
        let current = self.next;
        let starts = self.files.iter().position(|file| file.start == current);
        if let Some(file) = starts {
            self.close()?;
            let path = self.temporary(file);
            let failed = |e: std::io::Error| Error::file(&path, "to be written", e);
            let mut out = BufWriter::new(File::create(&path).map_err(failed)?);
            out.write_all(&self.header(file)?).map_err(failed)?;
            self.open = Some((path, out));
        }
        let (Some(entry), Some((path, out))) = (self.entries.get(current), &mut self.open) else {
            return Err(Error::file(&self.folder, "no more tensors", "one more"));
        };
        let failed = |e: std::io::Error| Error::file(path, "to be written", e);
        let elements = Elements {
            bytes,
            dtype,
            transposed: match (entry.transposed, entry.shape.as_slice()) {
                (true, &[rows, columns]) => Some([columns, rows]),
                _ => None,
            },
        };
        let (len, size) = (entry.len(), entry.dtype.size());
        let mut chunk = vec![0; CHUNK.min(len) * size];
        for start in (0..len).step_by(CHUNK) {
            let range = start..len.min(start + CHUNK);
            let chunk = &mut chunk[..range.len() * size];
            elements.copy(range, entry.dtype, chunk);
            out.write_all(chunk).map_err(failed)?;
        }
        self.next += 1;
        Ok(())
    }

    /// Gives the files their names, and removes those of an earlier export.
    pub(super) fn finish(mut self) -> Result<()> {
        self.close()?;
        if self.next != self.entries.len() {
            let expected = format!("{} tensors", self.entries.len());
            return Err(Error::file(&self.folder, expected, self.next));
        }
        let names: Vec<String> = (0..self.files.len()).map(|file| self.name(file)).collect();
        for (file, name) in names.iter().enumerate() {
            self.rename(&self.temporary(file), name)?;
        }
        let mut keep = names.clone();
        if names.len() > 1 {
            let weight_map = names.iter().zip(&self.files).flat_map(|(name, file)| {
                let entries = self.entries[file.clone()].iter();
                entries.map(|entry| (entry.name.clone(), name.clone()))
            });
            let total_size = self.entries.iter().map(|e| e.bytes() as u64).sum();
            let index = Index {
                metadata: IndexMetadata { total_size },
                weight_map: weight_map.collect(),
            };
            let path = self.folder.join(format!(".{INDEX}.new"));
            let failed = |e: &dyn std::fmt::Display| Error::file(&path, "to be written", e);
            let text = serde_json::to_string_pretty(&index).map_err(|e| failed(&e))?;
            std::fs::write(&path, text).map_err(|e| failed(&e))?;
            self.rename(&path, INDEX)?;
            keep.push(INDEX.into());
        }
        self.finished = true;
        if self.stem != MODEL {
            return Ok(());
        }
        // Readers would take an older single file before the index of the new ones.
        remove_others(&self.folder, &keep)
    }

    fn close(&mut self) -> Result<()> {
        let Some((path, out)) = self.open.take() else {
            return Ok(());
        };
        let failed = |e| Error::file(&path, "to be written", e);
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)
    }

    fn rename(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.folder.join(name);
        std::fs::rename(from, &to).map_err(|e| Error::file(&to, "to be written", e))
    }

    fn name(&self, file: usize) -> String {
        match self.files.len() {
            1 => format!("{}.safetensors", self.stem),
            of => format!("{}-{:05}-of-{of:05}.safetensors", self.stem, file + 1),
        }
    }

    fn temporary(&self, file: usize) -> PathBuf {
        self.folder.join(format!(".{}.new", self.name(file)))
    }

    /// The length of a file's header, and the header.
    fn header(&self, file: usize) -> Result<Vec<u8>> {
        let failed = |e: &dyn std::fmt::Display| Error::file(&self.folder, "to be written", e);
        let mut end = 0;
        let mut tensors = Vec::new();
        for entry in &self.entries[self.files[file].clone()] {
            let start = end;
            end += entry.bytes();
            let dtype = file_float(entry.dtype).ok_or_else(|| failed(&entry.dtype.name()))?;
            let info = TensorInfo {
                dtype,
                shape: entry.shape.clone(),
                data_offsets: (start, end),
            };
            tensors.push((entry.name.clone(), info));
        }
        let metadata = Some(self.metadata.clone());
        let metadata = Metadata::new(metadata, tensors).map_err(|e| failed(&e))?;
        // A map of hashes comes in another order in each run, and equal exports are to be equal files.
        let mut header = serde_json::to_value(&metadata).map_err(|e| failed(&e))?;
        header.sort_all_objects();
        let mut text = serde_json::to_vec(&header).map_err(|e| failed(&e))?;
        // Elements begin at a multiple of 8.
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        Ok(header)
    }
}

impl Drop for Writer {
    /// Removes the temporary files of an export that failed.
    fn drop(&mut self) {
        if !self.finished {
            self.open = None;
            for file in 0..self.files.len() {
                let _ = std::fs::remove_file(self.temporary(file));
            }
        }
    }
}

/// Consecutive entries for each file, as many as fit into `most_bytes` and at least one.
fn divide(entries: &[Entry], most_bytes: u64) -> Vec<Range<usize>> {
    let mut files = Vec::from([Range { start: 0, end: 0 }]);
    let mut bytes = 0;
    for (index, entry) in entries.iter().enumerate() {
        let size = entry.bytes() as u64;
        if bytes + size > most_bytes && bytes > 0 {
            files.push(index..index);
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = files.last_mut() {
            last.end = index + 1;
        }
    }
    files
}

/// Removes the files of an earlier export that was divided otherwise.
fn remove_others(folder: &Path, keep: &[String]) -> Result<()> {
    let failed = |e| Error::file(folder, "a folder without older weights", e);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if (name == SINGLE || name == INDEX || is_part(&name)) && !keep.contains(&name) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// True if a file is named `model-00001-of-00002.safetensors`, with any numbers.
fn is_part(name: &str) -> bool {
    let numbers = || {
        let inner = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
        inner.split_once("-of-")
    };
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    numbers().is_some_and(|(part, of)| is_number(part) && is_number(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(len: usize) -> Entry {
        Entry {
            name: format!("t{len}"),
            shape: vec![len],
            dtype: DType::F32,
            transposed: false,
        }
    }

    #[test]
    fn files_are_filled_in_order_and_hold_at_least_one_tensor() {
        let entries: Vec<Entry> = [1, 2, 30, 3, 4].map(entry).into();
        assert_eq!(divide(&entries, 20), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(divide(&entries, 28), [0..2, 2..3, 3..5]);
        assert_eq!(divide(&entries, 1000), [Range { start: 0, end: 5 }]);
        assert_eq!(divide(&[], 1000), [Range { start: 0, end: 0 }]);
    }

    #[test]
    fn only_what_an_export_wrote_is_removed() {
        assert!(is_part("model-00001-of-00002.safetensors"));
        for name in [
            "model-1-of-2.safetensors",
            "model-00001-of-00002.bin",
            "my-model.safetensors",
        ] {
            assert!(!is_part(name), "{name}");
        }
    }
}
