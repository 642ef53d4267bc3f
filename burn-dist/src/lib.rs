//! Fully sharded data parallelism for Burn.

pub mod data;
mod error;

pub use error::{Error, Result};
