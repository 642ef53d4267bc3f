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
//! - `folder` is where a save lies, and `claim` to which run a folder belongs;
//! - `manifest` lists the save's `parameter`s, the `digest` of each file, the optimizer's `behaviour` and the
//!   user's `state`;
//! - `rank_file` is a rank's file, with its `model_state` and the states of its `optimizer`;
//! - `trial` observes the behaviour of an optimizer;
//! - `save` and `load` are the collective calls.

mod behaviour;
mod claim;
mod digest;
mod folder;
mod load;
mod manifest;
mod model_state;
mod optimizer;
mod parameter;
mod rank_file;
mod save;
mod shared_folder;
mod state;
mod trial;
