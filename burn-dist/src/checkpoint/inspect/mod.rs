//! What saves hold, for people and programs that have no model.
//!
//! - `listing` is the saves of a run's folder, those that are damaged included;
//! - `contents` is what one save holds: its models, tensors, states and files.

mod contents;
mod listing;

pub use contents::{
    ModelContents, OptimizerContents, SaveContents, SaveFile, TensorContents, TensorKind,
};
pub use listing::{DamagedSave, ListedSave, RunListing};
