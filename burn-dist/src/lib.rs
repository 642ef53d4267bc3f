//! Fully sharded data parallelism for Burn.

pub mod comm;
pub mod data;
mod error;
pub mod launch;
mod unwind;
mod world;

pub use error::{Error, Result};
pub use world::World;
