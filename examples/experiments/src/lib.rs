//! Runs a matrix of trainings as real processes, and writes a report of them.

pub mod cli;
mod error;
mod files;
pub mod matrix;
pub mod published;
// The records of a run, without the crates that write them.
#[path = "../../../burn-dist/log/src/record.rs"]
pub mod record;
pub mod report;
pub mod results;
pub mod runner;
pub mod session;

pub use error::{Error, Result};
