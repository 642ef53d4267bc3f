//! Whether the folder of a run is complete.

use crate::record::Summary;
use crate::{Result, files};
use std::path::Path;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is no folder.
    Missing,
    /// There is one, without the summary of a run that has finished.
    Incomplete,
    /// It has finished.
    Complete,
}

impl State {
    /// The state of a run's folder.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if its summary cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        if !folder.exists() {
            return Ok(Self::Missing);
        }
        Ok(match summary(folder)? {
            Some(summary) if summary.ended == "finished" => Self::Complete,
            _ => Self::Incomplete,
        })
    }
}

/// The summary of a run, if there is one.
pub(crate) fn summary(folder: &Path) -> Result<Option<Summary>> {
    let path = folder.join("summary.json");
    if !path.exists() {
        return Ok(None);
    }
    files::read_json(&path, "the summary of a run").map(Some)
}
