//! Data files that are sent to an object store.

use super::fault::fault;
use super::runtime::{enter, wait};
use crate::checkpoint::format::WriteData;
use crate::error::{Error, Result};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of a part; the last has fewer. The least that all stores take for others than the last is 5 MiB.
const PART: u64 = 8 << 20;
/// The most parts of an object that all stores take.
const MAX_PARTS: u64 = 10_000;
/// Parts that are under way at once.
const AT_ONCE: usize = 4;

/// A pass over the tensors that sends nothing: an object is sent from its beginning on, and its header is known last.
#[derive(Debug)]
pub(super) struct FirstPass;

impl WriteData for FirstPass {
    fn write(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>, _: &[u8]) -> Result<bool> {
        Ok(false)
    }
}

/// An object that is sent in parts, some at once, while more is written.
#[derive(Debug)]
pub(super) struct Upload {
    path: PathBuf,
    header: Vec<u8>,
    /// None once it has ended.
    parts: Option<WriteMultipart>,
}

const EXPECTED: &str = "an object that can be written";

/// Bytes of a part of an object of so many.
fn part_bytes(bytes: u64) -> u64 {
    PART.max(bytes.div_ceil(MAX_PARTS))
}

impl Upload {
    /// Begins an object of so many bytes, of which `header` comes first.
    pub(super) fn begin(
        store: &Arc<dyn ObjectStore>,
        (path, key): (PathBuf, Key),
        header: Vec<u8>,
        bytes: u64,
    ) -> Result<Self> {
        let store = store.clone();
        let begun = wait(async move { store.put_multipart(&key).await })?;
        let begun = begun.map_err(|e| fault(&path, EXPECTED, &e))?;
        let part = part_bytes(bytes) as usize;
        let mut upload = Self {
            path,
            parts: Some(WriteMultipart::new_with_chunk_size(begun, part)),
            header: Vec::new(),
        };
        upload.write(&header)?;
        upload.header = header;
        Ok(upload)
    }
}

impl WriteData for Upload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        // It is gone after a failure alone, and that was returned.
        let Some(mut parts) = self.parts.take() else {
            return Err(Error::file(&self.path, EXPECTED, "one that has failed"));
        };
        let (parts, sent) = wait(async move {
            let sent = parts.wait_for_capacity(AT_ONCE).await;
            (parts, sent)
        })?;
        let parts = self.parts.insert(parts);
        sent.map_err(|e| fault(&self.path, EXPECTED, &e))?;
        enter(|| parts.write(bytes))
    }

    fn finish(mut self: Box<Self>, header: &[u8]) -> Result<bool> {
        if header != self.header {
            let found = "other tensors in the second pass than in the first";
            return Err(Error::file(&self.path, "the same parts of a save", found));
        }
        if let Some(parts) = self.parts.take() {
            // A failure removes the parts that were sent.
            let sent = wait(async move { parts.finish().await })?;
            sent.map_err(|e| fault(&self.path, EXPECTED, &e))?;
        }
        Ok(true)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else {
            return;
        };
        // Parts of an object that is never completed would be paid for.
        match wait(async move { parts.abort().await }) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => log::warn!("{}: {e}", self.path.display()),
            Err(e) => log::warn!("{e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_enough() {
        for bytes in [0, PART, PART * MAX_PARTS + 1, 5 << 40] {
            let part = part_bytes(bytes);
            assert!(part >= PART && bytes.div_ceil(part) <= MAX_PARTS);
        }
    }
}
