//! Low-rank adapters in PEFT's files: `adapter_model.safetensors` beside `adapter_config.json`.
//!
//! - `config` is the second file;
//! - `names` says what PEFT calls a factor, from the name of the weight that it is beside;
//! - `base` is a digest of the frozen weights that adapters belong to;
//! - `merge` adds adapters to the weights that they are beside;
//! - `export` writes the adapters of a sharded model, `load` reads them into one.

mod base;
mod config;
mod export;
mod load;
mod merge;
mod names;

pub use load::Adapters;
pub(super) use merge::Merge;
