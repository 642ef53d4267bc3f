//! The folder that a run saves to: where each save lies, which is the latest, and which may be removed.
//!
//! - `run_folder` makes, commits and removes saves;
//! - `claim` is a run's sole right to a folder;
//! - `keep` says which saves stay.

mod claim;
mod keep;
mod run_folder;

pub(super) use claim::Claim;
pub(super) use keep::Known;
pub use keep::{Best, Keep};
pub(super) use run_folder::{RunFolder, data_file_name};
