//! The bytes of a file, mapped into memory, or bytes that were made in its place.

use memmap2::Mmap;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

/// Bytes that tensors lie in.
#[derive(Debug)]
pub(super) enum Contents {
    /// A file as it is.
    Mapped(Mmap),
    /// What was computed.
    Made(Box<[u8]>),
}

impl Contents {
    /// Maps a file.
    #[allow(unsafe_code)]
    pub(super) fn mapped(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is only read, as bytes of which any value is valid. That nobody writes to the
        // file meanwhile is asked of the user: `Weights` says so.
        unsafe { Mmap::map(&file) }.map(Self::Mapped)
    }
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Made(bytes) => bytes,
        }
    }
}
