//! Data files that are read from an object store.

use super::fault::fault;
use super::runtime::wait;
use crate::checkpoint::format::ReadData;
use crate::error::{Error, Result};
use futures_util::future::try_join_all;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Requests for one read at once.
const AT_ONCE: u64 = 4;

/// An object of which ranges are read.
#[derive(Debug)]
pub(super) struct Download {
    path: PathBuf,
    key: Key,
    store: Arc<dyn ObjectStore>,
    len: u64,
    /// Bytes of one request: a small one takes hardly less time, so that much is read ahead.
    request: u64,
    /// What was read last, and where it begins.
    window: Vec<u8>,
    start: u64,
}

impl Download {
    /// Opens an object, to be read in requests of so many bytes; `expected` is what the caller wants of it.
    pub(super) fn open(
        store: &Arc<dyn ObjectStore>,
        (path, key): (PathBuf, Key),
        request: u64,
        expected: &str,
    ) -> Result<Self> {
        let (asked, store) = (store.clone(), store.clone());
        let wanted = key.clone();
        let facts = wait(async move { asked.head(&wanted).await })?;
        let facts = facts.map_err(|e| fault(&path, expected, &e))?;
        Ok(Self {
            path,
            key,
            store,
            len: facts.size,
            request,
            window: Vec::new(),
            start: 0,
        })
    }

    /// Reads a range, in several requests at once if it is long.
    fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let requests = range.clone().step_by(self.request as usize);
        let requests: Vec<_> = requests
            .map(|at| at..(at + self.request).min(range.end))
            .map(|part| {
                let (store, key) = (self.store.clone(), self.key.clone());
                async move { store.get_range(&key, part).await }
            })
            .collect();
        let parts = wait(async move { try_join_all(requests).await })?;
        let (start, end) = (range.start, range.end);
        let expected = format!("bytes {start} to {end}");
        let parts = parts.map_err(|e| fault(&self.path, &expected, &e))?;
        let bytes = parts.concat();
        if bytes.len() as u64 != end - start {
            let found = format!("{} bytes", bytes.len());
            return Err(Error::file(&self.path, expected, found));
        }
        Ok(bytes)
    }
}

impl ReadData for Download {
    fn len(&self) -> u64 {
        self.len
    }

    fn bytes(&mut self, range: Range<u64>, wanted: Range<u64>) -> Result<&[u8]> {
        let known = self.start..self.start + self.window.len() as u64;
        if range.start < known.start || range.end > known.end {
            // What follows is of the next tensors, which are read next.
            let end = wanted.end.max(range.start + self.request);
            let end = end.min(range.start + AT_ONCE * self.request).min(self.len);
            self.window = self.fetch(range.start..end.max(range.end))?;
            self.start = range.start;
        }
        let from = (range.start - self.start) as usize;
        let to = (range.end - self.start) as usize;
        Ok(&self.window[from..to])
    }

    fn is_mapped(&self) -> bool {
        false
    }
}
