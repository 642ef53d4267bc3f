//! What an export says of itself in a file with paths as names.

use super::tensor_files::TensorFiles;
use burn_dist::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The key in the metadata. It is the only one, since several come in any order, and equal saves give equal files.
pub(super) const KEY: &str = "burn-dist";

/// What an export says, as JSON. A file with it has paths as names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Written {
    /// The names of float tensors that take no gradients.
    pub(super) frozen: BTreeSet<String>,
}

impl Written {
    /// What a file says; none if no export has written it.
    ///
    /// # Errors
    /// [`Error::File`] for other JSON.
    pub(super) fn of_file(files: &TensorFiles) -> Result<Option<Self>> {
        let Some(text) = files.metadata(KEY) else {
            return Ok(None);
        };
        let expected = format!("in its metadata, under `{KEY}`, what an export writes");
        let read = serde_json::from_str(text);
        read.map(Some)
            .map_err(|e| Error::file(files.path(), expected, format!("{text:?}: {e}")))
    }
}
