//! The data files of a save, from which ranges of tensors are read.

use super::blocks::{blocks_of, bytes_of};
use super::data_file::DataFile;
use super::tensor::SavedTensor;
use crate::error::{Error, Result};
use crate::file_type::burn_type;
use burn::tensor::DType;
use memmap2::Mmap;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The files of a save; each is opened when something of it is wanted.
#[derive(Debug)]
pub(in crate::checkpoint) struct DataFiles {
    folder: PathBuf,
    listed: Vec<DataFile>,
    open: Vec<Option<OpenFile>>,
    read_bytes: u64,
}

/// A mapped file.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    map: Mmap,
    /// The bytes of each tensor, and its type.
    tensors: HashMap<String, (Range<usize>, DType)>,
    verified: Vec<bool>,
}

impl DataFiles {
    pub(in crate::checkpoint) fn new(folder: &Path, listed: Vec<DataFile>) -> Self {
        Self {
            folder: folder.to_path_buf(),
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
            return Err(Error::file(&self.folder, expected, out.len()));
        }
        for (piece, part) in tensor.within(range.clone()) {
            let to = (part.start - range.start) * size..(part.end - range.start) * size;
            let from = (part.start - piece.start) * size..(part.end - piece.start) * size;
            let (listed, file) = self.file(piece.file, name)?;
            let bytes = file.tensor(name, (piece.end - piece.start) * size, tensor)?;
            file.copy(listed, name, bytes.start + from.start, &mut out[to])?;
        }
        self.read_bytes += out.len() as u64;
        Ok(())
    }

    /// Reads all of a file, of which every byte is verified.
    pub(in crate::checkpoint) fn verify(&mut self, number: usize) -> Result<()> {
        let (listed, file) = self.file(number, "the whole file")?;
        for block in 0..file.verified.len() {
            file.verify(listed, block, "the whole file")?;
        }
        Ok(())
    }

    /// Reads all of a file and verifies every byte, though it was verified before; `progress` gets the bytes of each
    /// block. The error of a damaged block names the tensors in it.
    pub(in crate::checkpoint) fn verify_blocks(
        &mut self,
        number: usize,
        mut progress: impl FnMut(u64),
    ) -> Result<()> {
        let whole = "the whole file";
        let Some(listed) = self.listed.get(number) else {
            let expected = format!("a file number {number}");
            return Err(Error::file(&self.folder, expected, "none in the manifest"));
        };
        let mut file = OpenFile::mapped(&self.folder, listed, whole)?;
        let names = file.names_by_place();
        for block in 0..file.verified.len() {
            let bytes = bytes_of(block as u64, listed.bytes);
            file.verify(listed, block, &names_within(&names, &bytes))?;
            progress(bytes.end - bytes.start);
        }
        file.read_header(listed, whole)
    }

    /// A file, opened for the tensor of this name.
    fn file(&mut self, number: usize, name: &str) -> Result<(&DataFile, &mut OpenFile)> {
        // The manifest's numbers were checked when it was read.
        let (Some(listed), Some(open)) = (self.listed.get(number), self.open.get_mut(number))
        else {
            let expected = format!("a file number {number} for {name}");
            return Err(Error::file(&self.folder, expected, "none in the manifest"));
        };
        let file = match open {
            Some(file) => file,
            None => open.insert(OpenFile::of(&self.folder, listed, name)?),
        };
        Ok((listed, file))
    }
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
    fn of(folder: &Path, listed: &DataFile, wanted: &str) -> Result<Self> {
        let mut file = Self::mapped(folder, listed, wanted)?;
        file.read_header(listed, wanted)?;
        Ok(file)
    }

    /// The header and each tensor by their bytes, as the header says: which may be damaged itself, and is not
    /// verified here. Nothing if it cannot be read.
    fn names_by_place(&self) -> Vec<(Range<u64>, String)> {
        let Ok((header, metadata)) = SafeTensors::read_metadata(&self.map) else {
            return vec![(0..self.map.len() as u64, "the header".into())];
        };
        let data = 8 + header as u64;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            (data + start as u64..data + end as u64, name)
        });
        let mut names: Vec<_> = tensors.collect();
        names.sort_by_key(|(bytes, _)| bytes.start);
        // Last in words, because most damage is in what is large.
        names.push((0..data, "the header".into()));
        names
    }

    /// A file of the size that is listed, whose header is not read.
    fn mapped(folder: &Path, listed: &DataFile, wanted: &str) -> Result<Self> {
        let path = folder.join(&listed.name);
        let expected = || format!("a data file of this save, with {wanted}");
        let map = || {
            let file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            // SAFETY: the bytes are only read. A file that others change or cut meanwhile gives wrong
            // bytes, which the checksums find, or ends the process; saves are never written to again.
            #[allow(unsafe_code)]
            let map = unsafe { Mmap::map(&file) }?;
            Ok((map, bytes))
        };
        let (map, bytes) = map().map_err(|e: std::io::Error| Error::file(&path, expected(), e))?;
        if bytes != listed.bytes || map.len() as u64 != bytes {
            let expected = format!("{}, of {} bytes", expected(), listed.bytes);
            return Err(Error::file(&path, expected, format!("{bytes} bytes")));
        }
        Ok(Self {
            path,
            verified: vec![false; blocks_of(&(0..bytes)).end as usize],
            map,
            tensors: HashMap::new(),
        })
    }

    fn read_header(&mut self, listed: &DataFile, wanted: &str) -> Result<()> {
        let length: Option<[u8; 8]> = self.map.get(..8).and_then(|b| b.try_into().ok());
        let end = length
            .map(u64::from_le_bytes)
            .and_then(|length| length.checked_add(8))
            .filter(|end| *end <= self.map.len() as u64);
        let Some(end) = end else {
            let expected = "a safetensors file, which begins with the length of its header";
            return Err(Error::file(&self.path, expected, "a length beyond its end"));
        };
        for block in blocks_of(&(0..end)) {
            self.verify(listed, block as usize, wanted)?;
        }
        let damaged = |e: &dyn std::fmt::Display| Error::file(&self.path, "a safetensors file", e);
        let read = SafeTensors::deserialize(&self.map).map_err(|e| damaged(&e))?;
        let start = self.map.as_ptr().addr();
        let mut tensors = HashMap::new();
        for (name, view) in read.tensors() {
            let dtype = burn_type(view.dtype())
                .ok_or_else(|| damaged(&format!("a tensor of type {:?}", view.dtype())))?;
            let at = view.data().as_ptr().addr() - start;
            tensors.insert(name, (at..at + view.data().len(), dtype));
        }
        self.tensors = tensors;
        Ok(())
    }

    /// The bytes of a tensor, which has so many and is of the type of the saved one.
    fn tensor(&self, name: &str, size: usize, saved: &SavedTensor) -> Result<Range<usize>> {
        let found = self.tensors.get(name).cloned();
        let dtype = saved.facts.dtype();
        match found {
            Some((bytes, found)) if bytes.len() == size && Some(found) == dtype => Ok(bytes),
            found => {
                let expected = format!("{name}: {size} bytes of {}", saved.facts.dtype);
                let found = found.map_or("no such tensor".into(), |(bytes, dtype)| {
                    format!("{} bytes of {}", bytes.len(), dtype.name())
                });
                Err(Error::file(&self.path, expected, found))
            }
        }
    }

    /// Copies bytes from `at` on, of blocks that are verified first.
    fn copy(&mut self, listed: &DataFile, name: &str, at: usize, out: &mut [u8]) -> Result<()> {
        let wanted = at as u64..(at + out.len()) as u64;
        for block in blocks_of(&wanted) {
            self.verify(listed, block as usize, name)?;
            // While the block is in the cache.
            let bytes = bytes_of(block, listed.bytes);
            let here = bytes.start.max(wanted.start)..bytes.end.min(wanted.end);
            let to = (here.start - wanted.start) as usize..(here.end - wanted.start) as usize;
            out[to].copy_from_slice(&self.map[here.start as usize..here.end as usize]);
        }
        Ok(())
    }

    fn verify(&mut self, listed: &DataFile, block: usize, wanted: &str) -> Result<()> {
        if self.verified.get(block) == Some(&true) {
            return Ok(());
        }
        let bytes = bytes_of(block as u64, listed.bytes);
        let found = crc32fast::hash(&self.map[bytes.start as usize..bytes.end as usize]);
        let listed = listed.sums.of(block as u64);
        if listed != Some(found) {
            let sum = listed.map_or("none".into(), |sum| format!("{sum:08x}"));
            let expected = format!(
                "checksum {sum} of bytes {} to {}, where {wanted} is",
                bytes.start, bytes.end
            );
            return Err(Error::file(&self.path, expected, format!("{found:08x}")));
        }
        self.verified[block] = true;
        Ok(())
    }
}
