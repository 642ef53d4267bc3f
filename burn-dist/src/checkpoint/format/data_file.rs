//! A data file of a save while it is written: a safetensors file whose header comes last.
//!
//! The states of an optimizer are read one after the other and are not all in memory at once, so the header, which
//! lists them, is not known before they are written. Room is left for it: the format lets a header end in blanks.

use super::blocks::{BlockSums, Summing};
use crate::error::{Error, Result};
use crate::file_type::file_type;
use crate::finite::is_finite;
use burn::tensor::DType;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Data begin at a multiple of this, as vector instructions like them.
const ALIGN: usize = 64;
/// Bytes of the header's length, which comes first in the file.
const LENGTH: usize = 8;
/// Bytes that are collected for one write.
const BUFFER: usize = 1 << 20;
/// Bytes after which the system is asked to begin writing to disk.
const WRITE_BACK: u64 = 16 << 20;

/// A data file as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::checkpoint) struct DataFile {
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) bytes: u64,
    pub(in crate::checkpoint) sums: BlockSums,
}

/// The writer of a data file.
#[derive(Debug)]
pub(in crate::checkpoint) struct DataWriter {
    path: PathBuf,
    out: BufWriter<File>,
    /// Bytes before the first tensor.
    room: usize,
    sums: Summing,
    /// Up to where the system was asked to begin writing to disk.
    begun: u64,
    tensors: Vec<(String, TensorInfo)>,
}

/// The end of writing a file.
#[derive(Debug)]
pub(in crate::checkpoint) enum Finished {
    /// It is on disk.
    File(DataFile),
    /// Its header needs room for so many bytes: write it again.
    NeedsRoom(usize),
}

impl DataWriter {
    /// Begins the file anew, with room for a header of so many bytes.
    pub(in crate::checkpoint) fn create(path: &Path, header: usize) -> Result<Self> {
        let room = (LENGTH + header).next_multiple_of(ALIGN);
        let open = || {
            let mut file = File::create(path)?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(room as u64))?;
            Ok(file)
        };
        let file = open().map_err(|e| unwritten(path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            out: BufWriter::with_capacity(BUFFER, file),
            room,
            sums: Summing::starting_at(room as u64),
            begun: 0,
            tensors: Vec::new(),
        })
    }

    /// Writes a tensor of one dimension; returns whether all its elements are finite.
    ///
    /// # Errors
    /// [`Error::File`] if the disk refuses it, and for a type that the format does not know.
    pub(in crate::checkpoint) fn put(
        &mut self,
        name: String,
        dtype: DType,
        bytes: &[u8],
    ) -> Result<bool> {
        let known = file_type(dtype).ok_or_else(|| {
            Error::file(
                &self.path,
                "float or integer tensors",
                format!("{name} of {}", dtype.name()),
            )
        })?;
        let start = self.sums.position() as usize - self.room;
        let info = TensorInfo {
            dtype: known,
            shape: vec![bytes.len() / dtype.size()],
            data_offsets: (start, start + bytes.len()),
        };
        self.tensors.push((name, info));
        let mut finite = true;
        // All that is done with a part is done while it is in the cache.
        for part in bytes.chunks(BUFFER) {
            finite &= is_finite(part, dtype);
            self.sums.add(part);
            let written = self.out.write_all(part);
            written.map_err(|e| unwritten(&self.path, e))?;
        }
        self.write_back();
        Ok(finite)
    }

    /// Has the system begin to write to disk what it holds, so that little is left to wait for at the end.
    fn write_back(&mut self) {
        let end = self.sums.position();
        if end - self.begun < WRITE_BACK {
            return;
        }
        start_writing(self.out.get_ref(), self.begun, end - self.begun);
        self.begun = end;
    }

    /// Writes the header, and returns when all is on disk.
    pub(in crate::checkpoint) fn finish(self) -> Result<Finished> {
        let Self {
            path,
            out,
            room,
            sums,
            tensors,
            ..
        } = self;
        let failed = |e: &dyn std::fmt::Display| Error::file(&path, "to be written", e);
        let metadata = Metadata::new(None::<HashMap<String, String>>, tensors);
        let mut text = metadata
            .map_err(|e| failed(&e))
            .and_then(|metadata| serde_json::to_vec(&metadata).map_err(|e| failed(&e)))?;
        if LENGTH + text.len() > room {
            return Ok(Finished::NeedsRoom(text.len()));
        }
        text.resize(room - LENGTH, b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        let bytes = sums.position();
        let sums = sums.finish(&header);
        let end = || -> io::Result<()> {
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.write_all_at(&header, 0)?;
            // A file without tensors ends before the position that was sought.
            file.sync_all()
        };
        end().map_err(|e| unwritten(&path, e))?;
        let name = path.file_name().unwrap_or_default();
        Ok(Finished::File(DataFile {
            name: name.to_string_lossy().into_owned(),
            bytes,
            sums,
        }))
    }
}

/// Begins to write a part of a file to disk, and does not wait; a hint, which may fail.
#[cfg(target_os = "linux")]
fn start_writing(file: &File, from: u64, bytes: u64) {
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the descriptor is open as long as the file is borrowed, and no memory is passed.
    #[allow(unsafe_code)]
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), from as i64, bytes as i64, flags);
    }
}

#[cfg(not(target_os = "linux"))]
fn start_writing(_: &File, _: u64, _: u64) {}

/// The error of a file that cannot be written.
fn unwritten(path: &Path, error: io::Error) -> Error {
    Error::file(path, "to be written", error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    fn write(path: &Path, header: usize) -> Finished {
        let mut writer = DataWriter::create(path, header).unwrap();
        let floats: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
        writer.put("a".into(), DType::F32, &floats).unwrap();
        writer.put("b".into(), DType::F16, &[1, 2]).unwrap();
        writer.put("c".into(), DType::I64, &[]).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn any_reader_of_the_format_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        for header in [300, 70_000] {
            let file = match write(&path, header) {
                Finished::File(file) => Some(file),
                Finished::NeedsRoom(_) => None,
            };
            let file = file.unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(file.bytes, bytes.len() as u64);
            for (block, part) in bytes.chunks(1 << 20).enumerate() {
                assert_eq!(file.sums.of(block as u64), Some(crc32fast::hash(part)));
            }
            let read = SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(read.tensor("b").unwrap().data(), [1, 2]);
            let last = read.tensor("a").unwrap().data()[1_599_996..].to_vec();
            assert_eq!(last, 399_999u32.to_le_bytes());
            assert_eq!(read.tensor("c").unwrap().shape(), [0]);
        }
    }

    #[test]
    fn too_little_room_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let room = |header| match write(&path, header) {
            Finished::File(_) => None,
            Finished::NeedsRoom(header) => Some(header),
        };
        assert_eq!(room(room(10).unwrap()), None);
    }
}
