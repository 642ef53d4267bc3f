//! Saves on other ranks than those that wrote them, in the background, and of several models together.
//!
//! Everything is f64 here, so that rounding cannot hide a difference: Burn loads the states of an optimizer in the
//! type of the default device, which is set for the whole process.

#[path = "../oracle/mod.rs"]
mod oracle;

mod background;
mod changes;
mod contents;
mod damage;
mod durable;
mod inspect;
mod keeping;
mod kills;
mod model;
#[cfg(feature = "object-store")]
mod objects;
mod pairs;
mod parts;
mod program;
mod python;
#[cfg(feature = "s3")]
mod s3;
