//! What a training program imports.

pub use crate::data::{Batch, Dataset, Loader};
pub use crate::launch::Threads;
pub use crate::{Destination, Error, Plan, Result, Stepper, Strategy, World, unit};
