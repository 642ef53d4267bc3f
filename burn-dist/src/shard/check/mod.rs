//! Checks of what the engine does: whether an optimizer is right on shards, and whether a step agrees with
//! one plain device.

mod optimizer;
mod shadow;

pub use shadow::{Shadow, Shadowed};
