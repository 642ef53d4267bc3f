//! The data files of a save, from which ranges of tensors are read.

use super::access::{OpenData, ReadData};
use super::blocks::{BLOCK, blocks_of, bytes_of};
use super::data_file::{DataFile, LENGTH};
use super::tensor::SavedTensor;
use crate::error::{Error, Result};
use crate::file_type::burn_type;
use burn::tensor::DType;
use safetensors::tensor::Metadata;
use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that are divided over the files of a save: what one request to a storage far away reads, also ahead of what is
/// wanted. A long range is read in several such requests at once.
const READ_AHEAD: u64 = 64 << 20;
/// The least and the most of them for a file.
const READ_AHEAD_OF_FILE: (u64, u64) = (1 << 20, 8 << 20);

/// The files of a save; each is opened when something of it is wanted.
#[derive(Debug)]
pub(in crate::checkpoint) struct DataFiles {
    storage: Arc<dyn OpenData>,
    /// The name of the save.
    save: String,
    /// Its path.
    path: PathBuf,
    listed: Vec<DataFile>,
    open: Vec<Option<OpenFile>>,
    read_bytes: u64,
}

/// An open file.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    data: Box<dyn ReadData>,
    /// The bytes of each tensor, and its type.
    tensors: HashMap<String, (Range<u64>, DType)>,
    /// The blocks that were verified and come again.
    verified: Vec<bool>,
}

impl DataFiles {
    /// The files of the save of this name, at this path.
    pub(in crate::checkpoint) fn new(
        storage: Arc<dyn OpenData>,
        save: &str,
        path: PathBuf,
        listed: Vec<DataFile>,
    ) -> Self {
        Self {
            storage,
            save: save.to_string(),
            path,
            open: listed.iter().map(|_| None).collect(),
            listed,
            read_bytes: 0,
        }
    }

    /// Bytes of tensors that were read so far.
    pub(in crate::checkpoint) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Reads the elements `range` of a tensor to `out`, from those files alone that hold some of them.
    ///
    /// `name` is the tensor's name in the files.
    ///
    /// # Errors
    /// [`Error::File`] if a file is missing or damaged, naming file and tensor.
    pub(in crate::checkpoint) fn read(
        &mut self,
        tensor: &SavedTensor,
        name: &str,
        range: Range<usize>,
        out: &mut [u8],
    ) -> Result<()> {
        let size = tensor.facts.dtype().map_or(0, |dtype| dtype.size());
        if out.len() != range.len() * size {
            let expected = format!("room for {} elements of {name}", range.len());
            return Err(Error::file(&self.path, expected, out.len()));
        }
        for (piece, part) in tensor.within(range.clone()) {
            let to = (part.start - range.start) * size..(part.end - range.start) * size;
            let from = (part.start - piece.start) * size..(part.end - piece.start) * size;
            let (listed, file) = self.file(piece.file, name)?;
            let bytes = file.tensor(name, (piece.end - piece.start) * size, tensor)?;
            let at = bytes.start + from.start as u64;
            file.copy(listed, name, at, &mut out[to])?;
        }
        self.read_bytes += out.len() as u64;
        Ok(())
    }

    /// Reads all of a file and verifies every byte, though it was verified before; `progress` gets the bytes of each
    /// block. The error of a damaged block names the tensors in it.
    pub(in crate::checkpoint) fn verify(
        &self,
        number: usize,
        mut progress: impl FnMut(u64),
    ) -> Result<()> {
        let (listed, mut file) = self.opened(number, "every byte")?;
        let all = 0..listed.bytes;
        let names = file.names_by_place();
        for block in blocks_of(&all) {
            let bytes = bytes_of(block, listed.bytes);
            file.block(listed, block, &all, &names_within(&names, &bytes))?;
            progress(bytes.end - bytes.start);
        }
        file.read_header(listed)
    }

    /// A file, opened for the tensor of this name.
    fn file(&mut self, number: usize, name: &str) -> Result<(&DataFile, &mut OpenFile)> {
        if self.open.get(number).is_some_and(Option::is_none) {
            let (listed, mut file) = self.opened(number, name)?;
            file.read_header(listed)?;
            self.open[number] = Some(file);
        }
        // The manifest's numbers were checked when it was read.
        match (self.listed.get(number), self.open.get_mut(number)) {
            (Some(listed), Some(Some(file))) => Ok((listed, file)),
            _ => Err(unlisted(&self.path, number, name)),
        }
    }

    /// A file of the size that is listed, whose header is not read.
    fn opened(&self, number: usize, name: &str) -> Result<(&DataFile, OpenFile)> {
        let listed = self.listed.get(number);
        let listed = listed.ok_or_else(|| unlisted(&self.path, number, name))?;
        let (least, most) = READ_AHEAD_OF_FILE;
        let read_ahead = (READ_AHEAD / self.listed.len() as u64).clamp(least, most);
        let expected = format!("a data file of this save, with {name}");
        let storage = &self.storage;
        let data = storage.open(&self.save, &listed.name, read_ahead, &expected)?;
        let path = self.path.join(&listed.name);
        let bytes = data.len();
        if bytes != listed.bytes {
            let expected = format!("{expected}, of {} bytes", listed.bytes);
            return Err(Error::file(&path, expected, format!("{bytes} bytes")));
        }
        let file = OpenFile {
            path,
            verified: vec![false; blocks_of(&(0..bytes)).end as usize],
            data,
            tensors: HashMap::new(),
        };
        Ok((listed, file))
    }
}

fn unlisted(save: &Path, number: usize, name: &str) -> Error {
    let expected = format!("a file number {number} for {name}");
    Error::file(save, expected, "none in the manifest")
}

/// Names of a block that an error lists.
const MAX_NAMES: usize = 3;

/// What lies in a range of bytes, in words.
fn names_within(names: &[(Range<u64>, String)], bytes: &Range<u64>) -> String {
    let within = names.iter();
    let within = within.filter(|(at, _)| at.start < bytes.end && bytes.start < at.end);
    let mut within: Vec<&str> = within.map(|(_, name)| name.as_str()).collect();
    let more = within.len().saturating_sub(MAX_NAMES);
    within.truncate(MAX_NAMES);
    match (within.is_empty(), more) {
        (true, _) => "no tensor".into(),
        (_, 0) => within.join(", "),
        _ => format!("{} and {more} more", within.join(", ")),
    }
}

impl OpenFile {
    /// The header and each tensor by their bytes, as the header says: which may be damaged itself, and is not
    /// verified here. All of the file is the header if it cannot be read.
    fn names_by_place(&mut self) -> Vec<(Range<u64>, String)> {
        const HEADER: &str = "the header";
        let Some((data, metadata)) = self.unverified_header() else {
            return vec![(0..self.data.len(), HEADER.into())];
        };
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            (
                data.saturating_add(start as u64)..data.saturating_add(end as u64),
                name,
            )
        });
        let mut names: Vec<_> = tensors.collect();
        names.sort_by_key(|(bytes, _)| bytes.start);
        // Last in words, because most damage is in what is large.
        names.push((0..data, HEADER.into()));
        names
    }

    /// Where the data begin, and what the header lists.
    fn unverified_header(&mut self) -> Option<(u64, Metadata)> {
        let len = self.data.len();
        let length = self.data.bytes(0..LENGTH as u64, 0..LENGTH as u64).ok()?;
        let end = u64::from_le_bytes(length.try_into().ok()?);
        let end = end.checked_add(LENGTH as u64).filter(|end| *end <= len)?;
        let mut header = Vec::new();
        for block in blocks_of(&(0..end)) {
            let bytes = self.data.bytes(bytes_of(block, len), 0..end).ok()?;
            header.extend_from_slice(bytes);
        }
        let header = header.get(LENGTH..end as usize)?;
        Some((end, serde_json::from_slice(header).ok()?))
    }

    fn read_header(&mut self, listed: &DataFile) -> Result<()> {
        const WANTED: &str = "the list of tensors";
        let mut length = [0; LENGTH];
        let end = if listed.bytes < LENGTH as u64 {
            None
        } else {
            self.copy(listed, WANTED, 0, &mut length)?;
            let end = u64::from_le_bytes(length).checked_add(LENGTH as u64);
            end.filter(|end| *end <= listed.bytes)
        };
        let Some(end) = end else {
            let expected = "a safetensors file, which begins with the length of its header";
            return Err(Error::file(&self.path, expected, "a length beyond its end"));
        };
        let damaged = |path: &PathBuf, e: &dyn Display| Error::file(path, "a safetensors file", e);
        let mut header = vec![0; end as usize];
        self.copy(listed, WANTED, 0, &mut header)?;
        let read = serde_json::from_slice::<Metadata>(&header[LENGTH..]);
        let metadata = read.map_err(|e| damaged(&self.path, &e))?;
        let data_bytes = metadata.data_len() as u64;
        if end.checked_add(data_bytes) != Some(listed.bytes) {
            let found = format!(
                "{data_bytes} bytes of tensors after {end} of {}",
                listed.bytes
            );
            return Err(damaged(&self.path, &found));
        }
        for (name, info) in metadata.tensors() {
            let dtype = burn_type(info.dtype).ok_or_else(|| {
                damaged(&self.path, &format!("a tensor of type {:?}", info.dtype))
            })?;
            let (from, to) = info.data_offsets;
            let bytes = end + from as u64..end + to as u64;
            self.tensors.insert(name, (bytes, dtype));
        }
        Ok(())
    }

    /// The bytes of a tensor, which has so many and is of the type of the saved one.
    fn tensor(&self, name: &str, size: usize, saved: &SavedTensor) -> Result<Range<u64>> {
        let found = self.tensors.get(name).cloned();
        let dtype = saved.facts.dtype();
        match found {
            Some((bytes, found))
                if bytes.end - bytes.start == size as u64 && Some(found) == dtype =>
            {
                Ok(bytes)
            }
            found => {
                let expected = format!("{name}: {size} bytes of {}", saved.facts.dtype);
                let found = found.map_or("no such tensor".into(), |(bytes, dtype)| {
                    format!("{} bytes of {}", bytes.end - bytes.start, dtype.name())
                });
                Err(Error::file(&self.path, expected, found))
            }
        }
    }

    /// Copies bytes from `at` on, of blocks that are verified first.
    fn copy(&mut self, listed: &DataFile, name: &str, at: u64, out: &mut [u8]) -> Result<()> {
        let wanted = at..at + out.len() as u64;
        for block in blocks_of(&wanted) {
            // While the block is in the cache.
            let bytes = bytes_of(block, listed.bytes);
            let here = bytes.start.max(wanted.start)..bytes.end.min(wanted.end);
            let to = (here.start - wanted.start) as usize..(here.end - wanted.start) as usize;
            let from = (here.start - bytes.start) as usize..(here.end - bytes.start) as usize;
            let block = self.block(listed, block, &wanted, name)?;
            out[to].copy_from_slice(&block[from]);
        }
        Ok(())
    }

    /// A block, verified; `wanted` is all that is read of the file now.
    fn block(
        &mut self,
        listed: &DataFile,
        block: u64,
        wanted: &Range<u64>,
        name: &str,
    ) -> Result<&[u8]> {
        let range = bytes_of(block, listed.bytes);
        let follows = range.start..wanted.end.next_multiple_of(BLOCK).min(listed.bytes);
        let is_mapped = self.data.is_mapped();
        let bytes = self.data.bytes(range.clone(), follows)?;
        let Some(verified) = self.verified.get_mut(block as usize) else {
            let expected = format!("a block {block}, where {name} is");
            return Err(Error::file(&self.path, expected, "the end of the file"));
        };
        if *verified {
            return Ok(bytes);
        }
        let found = crc32fast::hash(bytes);
        let listed = listed.sums.of(block);
        if listed != Some(found) {
            let sum = listed.map_or("none".into(), |sum| format!("{sum:08x}"));
            let (start, end) = (range.start, range.end);
            let expected = format!("checksum {sum} of bytes {start} to {end}, where {name} is");
            return Err(Error::file(&self.path, expected, format!("{found:08x}")));
        }
        *verified = is_mapped;
        Ok(bytes)
    }
}
