//! What a training program imports.

pub use crate::data::{Dataset, DistributedSampler, Loader};
pub use crate::launch::Threads;
pub use crate::{Destination, Error, Plan, Result, Strategy, World, unit};
