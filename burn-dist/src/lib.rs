//! Fully sharded data parallelism for Burn.

mod checkpoint;
pub mod comm;
pub mod data;
mod error;
pub mod launch;
pub mod layout;
mod plan;
pub mod shard;
mod strategy;
pub mod telemetry;
mod unwind;
mod world;

pub use error::{Error, Result};
pub use plan::{Memory, Plan, Traffic};
pub use shard::{Accumulation, Activations, Clipped, Destination, ShardedGradients, unit};
pub use strategy::Strategy;
pub use world::World;
