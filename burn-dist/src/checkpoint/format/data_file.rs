//! A data file of a save while it is written: a safetensors file whose header is known last.
//!
//! The states of an optimizer are read one after the other and are not all in memory at once, so the header, which
//! lists them, is not known before they are written. Room is left for it: the format lets a header end in blanks.
//! A storage that takes bytes in their order alone gets them in a second pass, after one that wrote nothing.

use super::access::{Header, WriteData};
use super::blocks::{BlockSums, Summing};
use crate::error::{Error, Result};
use crate::file_type::file_type;
use crate::finite::is_finite;
use burn::tensor::DType;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;

/// Data begin at a multiple of this, as vector instructions like them.
const ALIGN: usize = 64;
/// Bytes of the header's length, which comes first in the file.
pub(super) const LENGTH: usize = 8;
/// Bytes that are handed on at once.
const PART: usize = 1 << 20;

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
    out: Box<dyn WriteData>,
    /// Bytes before the first tensor.
    room: usize,
    sums: Summing,
    tensors: Vec<(String, TensorInfo)>,
}

/// The end of writing a file.
#[derive(Debug)]
pub(in crate::checkpoint) enum Finished {
    /// It is durable.
    File(DataFile),
    /// Its header must be this: write it again.
    Again(Header),
}

impl Header {
    /// Bytes before the first tensor.
    pub(in crate::checkpoint) fn room(&self) -> usize {
        match self {
            Self::Room(bytes) => (LENGTH + bytes).next_multiple_of(ALIGN),
            Self::Known { header, .. } => header.len(),
        }
    }
}

impl DataWriter {
    /// The writer of the file at `path`, behind a header.
    pub(in crate::checkpoint) fn new(
        path: PathBuf,
        out: Box<dyn WriteData>,
        header: &Header,
    ) -> Self {
        let room = header.room();
        Self {
            path,
            out,
            room,
            sums: Summing::starting_at(room as u64),
            tensors: Vec::new(),
        }
    }

    /// Writes a tensor of one dimension; returns whether all its elements are finite.
    ///
    /// # Errors
    /// [`Error::File`] if the storage refuses it, and for a type that the format does not know.
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
        for part in bytes.chunks(PART) {
            finite &= is_finite(part, dtype);
            self.sums.add(part);
            self.out.write(part)?;
        }
        Ok(finite)
    }

    /// Writes the header, and returns when all is durable.
    pub(in crate::checkpoint) fn finish(self) -> Result<Finished> {
        let Self {
            path,
            out,
            room,
            sums,
            tensors,
        } = self;
        let failed = |e: &dyn std::fmt::Display| Error::file(&path, "to be written", e);
        let metadata = Metadata::new(None::<HashMap<String, String>>, tensors);
        let mut text = metadata
            .map_err(|e| failed(&e))
            .and_then(|metadata| serde_json::to_vec(&metadata).map_err(|e| failed(&e)))?;
        if LENGTH + text.len() > room {
            return Ok(Finished::Again(Header::Room(text.len())));
        }
        text.resize(room - LENGTH, b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        let bytes = sums.position();
        if !out.finish(&header)? {
            return Ok(Finished::Again(Header::Known { header, bytes }));
        }
        let name = path.file_name().unwrap_or_default();
        Ok(Finished::File(DataFile {
            name: name.to_string_lossy().into_owned(),
            bytes,
            sums: sums.finish(&header),
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use std::sync::{Arc, Mutex};

    /// A storage in memory.
    #[derive(Debug)]
    struct Memory {
        file: Arc<Mutex<Vec<u8>>>,
        wants_header_first: bool,
    }

    impl WriteData for Memory {
        fn write(&mut self, bytes: &[u8]) -> Result<()> {
            self.file.lock().unwrap().extend(bytes);
            Ok(())
        }

        fn finish(self: Box<Self>, header: &[u8]) -> Result<bool> {
            self.file
                .lock()
                .unwrap()
                .splice(..0, header.iter().copied());
            Ok(!self.wants_header_first)
        }
    }

    fn write(header: &Header, wants_header_first: bool) -> (Finished, Vec<u8>) {
        let file = Arc::new(Mutex::new(Vec::new()));
        let out = Box::new(Memory {
            file: file.clone(),
            wants_header_first,
        });
        let mut writer = DataWriter::new("data".into(), out, header);
        let floats: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
        writer.put("a".into(), DType::F32, &floats).unwrap();
        writer.put("b".into(), DType::F16, &[1, 2]).unwrap();
        writer.put("c".into(), DType::I64, &[]).unwrap();
        let finished = writer.finish().unwrap();
        let bytes = file.lock().unwrap().clone();
        (finished, bytes)
    }

    #[test]
    fn any_reader_of_the_format_reads_it() {
        for room in [300, 70_000] {
            let (finished, bytes) = write(&Header::Room(room), false);
            let file = match finished {
                Finished::File(file) => Some(file),
                Finished::Again(_) => None,
            };
            let file = file.unwrap();
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
        let again = |header| match write(&header, false).0 {
            Finished::File(_) => None,
            Finished::Again(header) => Some(header),
        };
        assert_eq!(again(again(Header::Room(10)).unwrap()), None);
    }

    #[test]
    fn a_storage_that_wants_the_header_first_gets_the_same_file() {
        let (first, bytes) = write(&Header::Room(300), true);
        let known = match first {
            Finished::Again(known) => Some(known),
            Finished::File(_) => None,
        };
        let known = known.unwrap();
        let (second, same) = write(&known, false);
        assert!(matches!(second, Finished::File(file) if file.bytes == bytes.len() as u64));
        assert_eq!(same, bytes);
    }
}
