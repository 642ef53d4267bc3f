//! The error of a tensor that a file or a save cannot hold.

use burn_dist::Error;

/// The error of the tensor at `path`: its problem, and what to do.
pub(super) fn refused(path: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::Model {
        path: path.into(),
        problem: problem.into(),
        remedy: remedy.into(),
    }
}
