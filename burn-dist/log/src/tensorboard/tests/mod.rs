//! Tests of event files, which other programs read back.
#![allow(clippy::unwrap_used)]

mod histograms;
mod messages;
mod python;
mod writer;
