//! Length and checksum of a file, by which a damaged or exchanged one is found.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;

/// The length and CRC-32 of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileDigest {
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

impl FileDigest {
    /// Reads the file at `path` once.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let failed = |e| Error::file(path, "a readable file", e);
        let mut file = File::open(path).map_err(failed)?;
        let mut crc = crc32fast::Hasher::new();
        let mut block = vec![0; BLOCK];
        let mut bytes = 0;
        loop {
            match file.read(&mut block).map_err(failed)? {
                0 => break,
                n => {
                    crc.update(&block[..n]);
                    bytes += n as u64;
                }
            }
        }
        let crc32 = crc.finalize();
        Ok(Self { bytes, crc32 })
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with checksum {:08x}", self.bytes, self.crc32)
    }
}
