//! How data files are written and read, whatever storage they lie in.

use crate::error::Result;
use std::fmt::Debug;
use std::ops::Range;

/// What comes first in a data file, as far as it is known before the tensors are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::checkpoint) enum Header {
    /// Room for so many bytes.
    Room(usize),
    /// All of it, from a pass over the tensors before.
    Known {
        header: Vec<u8>,
        /// Of the whole file.
        bytes: u64,
    },
}

/// A data file that is being written; one that is dropped before its end is no file.
pub(in crate::checkpoint) trait WriteData: Debug {
    /// Writes the next bytes of what follows the header.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the storage refuses them.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Writes the header, and returns when all is durable.
    ///
    /// False if the storage needs the header before the rest: nothing was written then.
    fn finish(self: Box<Self>, header: &[u8]) -> Result<bool>;
}

/// A data file that is read.
pub(in crate::checkpoint) trait ReadData: Debug + Send {
    /// The number of its bytes.
    fn len(&self) -> u64;

    /// Bytes of a range in the file, of which at most a block is asked for at once. `wanted` is what follows, as far as
    /// that is known: a storage that is far away reads it with them.
    fn bytes(&mut self, range: Range<u64>, wanted: Range<u64>) -> Result<&[u8]>;

    /// Whether the same bytes come again; others are verified each time.
    fn is_mapped(&self) -> bool;
}

/// A storage of which data files are opened.
pub(in crate::checkpoint) trait OpenData: Debug + Send + Sync {
    /// Opens a data file of a save. A storage that is far away may read so many bytes ahead; `expected` is what the
    /// caller wants of the file, for the message of an error.
    fn open(
        &self,
        save: &str,
        file: &str,
        read_ahead: u64,
        expected: &str,
    ) -> Result<Box<dyn ReadData>>;
}
