//! Records of TensorFlow's TFRecord format, appended to a file.

use super::crc32c::crc32c;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Bytes from which on records are written without being asked for.
const FULL: usize = 64 << 10;

/// A file of records, buffered.
///
/// Whole records are handed to the system, so that a process that is killed leaves a file of whole records, up to
/// the last one that was flushed or further.
#[derive(Debug)]
pub(crate) struct RecordFile {
    path: PathBuf,
    file: File,
    /// Records that the system does not have yet, the first perhaps in part.
    waiting: Vec<u8>,
}

impl RecordFile {
    /// A new file.
    ///
    /// # Errors
    ///
    /// If it is there already, or cannot be created.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        Ok(Self {
            file: file.map_err(|error| at(&path, "create", &error))?,
            waiting: Vec::new(),
            path,
        })
    }

    /// Onto a file that is there, such as a device.
    #[cfg(test)]
    pub(crate) fn onto(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: OpenOptions::new().append(true).open(path)?,
            waiting: Vec::new(),
            path: path.into(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record: its length, a checksum of that, its bytes, a checksum of those.
    pub(crate) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let length = (record.len() as u64).to_le_bytes();
        self.waiting.extend(length);
        self.waiting.extend(masked(&length).to_le_bytes());
        self.waiting.extend(record);
        self.waiting.extend(masked(record).to_le_bytes());
        if self.waiting.len() < FULL {
            return Ok(());
        }
        self.flush()
    }

    /// Hands everything to the system. What it does not take, as on a full disk, is kept for the next call.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            match self.file.write(&self.waiting[written..]) {
                _ if written == self.waiting.len() => break Ok(()),
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.waiting.drain(..written);
        result.map_err(|error| at(&self.path, "write to", &error))
    }
}

impl Drop for RecordFile {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            log::warn!("the last events are lost: {error}");
        }
    }
}

fn at(path: &Path, what: &str, error: &io::Error) -> io::Error {
    let text = format!("cannot {what} {}: {error}", path.display());
    io::Error::new(error.kind(), text)
}

/// The checksum as it stands in the file: rotated and moved, so that a record which holds records with their
/// checksums is not checked by a checksum of checksums.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
