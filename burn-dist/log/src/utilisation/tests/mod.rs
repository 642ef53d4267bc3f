//! Tests of samples: their lines, and what they say of this very process.
#![allow(clippy::unwrap_used)]

mod lines;
#[cfg(feature = "nvml")]
mod nvml;
#[cfg(feature = "utilisation")]
mod process;
