//! Weights from other programs' files into a model, and back.
//!
//! The files are those of Hugging Face: `model.safetensors`, or `model-00001-of-00003.safetensors`
//! and so on with an index. They are mapped into memory, and each rank copies out of them only the
//! elements that it stores: loading takes a rank's shard of memory and nothing beside it. Saving goes
//! the other way, one gathered unit at a time.
//!
//! - `files` is what is on disk: maps (`contents`), headers, the index; `tensor` reads or replaces one tensor;
//! - `name` is the name of a parameter there, and says if it is stored transposed;
//! - `matching` assigns a tensor to each parameter, and writes a `report`;
//! - `elements` copies a range of elements, with transposition and conversion;
//! - `digest` compares the files among ranks;
//! - `adapters` are low-rank adapters, in PEFT's layout;
//! - `load` fills a model, sharded or plain; `export` and `writer` write one.
//!
//! Nothing here knows any model: the names of its parameters are a function from module path to [`Name`].

mod adapters;
mod contents;
mod digest;
mod elements;
mod export;
mod files;
mod load;
mod matching;
mod name;
mod report;
mod tensor;
mod writer;

pub use adapters::Adapters;
pub use export::Export;
pub use files::Weights;
pub use name::Name;
pub use report::{Mismatch, Report};
