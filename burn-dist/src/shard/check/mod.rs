//! Checks of what the engine does: whether an optimizer is right on shards, and whether a step agrees with
//! one plain device.

mod imitation;
mod optimizer;
mod shadow;

pub(crate) use imitation::{Imitation, MOST_DIMENSIONS, Stand, StandIn};
pub(crate) use optimizer::{Trial, Trials};
pub use shadow::{Shadow, Shadowed};
