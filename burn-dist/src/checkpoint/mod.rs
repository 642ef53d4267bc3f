//! Saving and resuming a sharded run.
//!
//! A save is a folder: one safetensors file per rank, with the shards of parameters and optimizer
//! states that the rank holds, and a manifest that says what belongs together.
//!
//! ```text
//! DIR/lock                                        held by the run that saves here
//! DIR/manifest.json                               points at the last complete save
//! DIR/save-000003/rank-00000-of-00002.safetensors
//! DIR/save-000003/rank-00001-of-00002.safetensors
//! ```
//!
//! The manifest is replaced last, by a rename, once every file is on disk; the save it pointed at
//! before goes only then. So a kill at any moment leaves a complete save behind. It has checksums of
//! the files and one of its own.
//!
//! Everything is keyed by module path: `ParamId`s are random in every process.
//!
//! - `contents` is what a rank holds of a model, `optimizer` what its optimizer keeps;
//! - `trial` finds out which optimizer that is, and `state` holds what the user gave;
//! - `folder` says what may be removed, `claim` to which run a folder belongs;
//! - `save` and `load` are the collective calls.

mod claim;
mod contents;
mod folder;
mod load;
mod manifest;
mod optimizer;
mod save;
mod state;
mod trial;
