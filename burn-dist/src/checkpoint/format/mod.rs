//! The form of a save: a manifest with global facts, and data files that hold ranges of tensors.
//!
//! Nothing here knows ranks or models: a save can be read by a program that has neither. `docs/saves.md` describes
//! the form for other programs.
//!
//! - `manifest` lists all: each `tensor` with its pieces, each `data_file` with the sums of its `blocks`, what is
//!   known of an optimizer's `behaviour`, and the `user_state`s;
//! - `data_files` reads ranges; `access` is how files are written and read, whatever storage they lie in.

mod access;
mod behaviour;
mod blocks;
mod data_file;
mod data_files;
mod manifest;
mod tensor;
mod user_state;

pub(super) use access::{Header, OpenData, ReadData, WriteData};
pub(super) use behaviour::{OptimizerBehaviour, ParameterBehaviour};
pub(super) use data_file::{DataFile, DataWriter, Finished};
pub(super) use data_files::DataFiles;
pub use manifest::Best;
pub(super) use manifest::{
    Manifest, ManifestFields, SavedModel, SavedOptimizer, model_tensor, optimizer_tensor,
};
pub(super) use tensor::{Kind, Piece, SavedTensor, TensorFacts};
pub(super) use user_state::UserState;
