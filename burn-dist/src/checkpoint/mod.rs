//! Saving and resuming a sharded run.
//!
//! A save is a folder: one safetensors file per rank, with the pieces of parameters and optimizer
//! states that the rank holds, and a manifest that says what belongs together.
//!
//! ```text
//! DIR/manifest.json                               points at the last complete save
//! DIR/save-000003/rank-00000-of-00002.safetensors
//! DIR/save-000003/rank-00001-of-00002.safetensors
//! ```
//!
//! The manifest is replaced last, by a rename, once every file is on disk; the save it pointed at
//! before goes only then. So a kill at any moment leaves a complete save behind.
//!
//! Everything is keyed by module path: `ParamId`s are random in every process.

mod load;
mod manifest;
mod optimizer;
mod save;
