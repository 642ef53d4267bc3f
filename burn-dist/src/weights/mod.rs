//! Weights from other programs' files into a model, and back.
//!
//! The files are those of Hugging Face: `model.safetensors`, or `model-00001-of-00003.safetensors`
//! and so on with an index. They are mapped into memory, and each rank copies out of them only the
//! elements that it stores: loading takes a rank's shard of memory and nothing beside it. Saving goes
//! the other way, one gathered unit at a time.
//!
//! - `files` is what is on disk: maps, headers, the index;
//! - `name` says what a parameter is called there, and whether it lies transposed;
//! - `matching` brings the two together, and leaves a `report`;
//! - `elements` copies a range of elements, turned over and converted on the way;
//! - `load` fills a model, sharded or plain; `export` and `writer` write one.
//!
//! Nothing here knows any model: what names a model's parameters have is a function from module path
//! to [`Name`].

mod digest;
mod elements;
mod export;
mod files;
mod load;
mod matching;
mod name;
mod report;
mod writer;

pub use export::Export;
pub use files::Weights;
pub use name::Name;
pub use report::{Mismatch, Report};
