//! Tests of the experiments: which runs a matrix is, which are made, and what the report says of them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod errors;
mod examples;
mod generated;
mod matrix;
mod pages;
mod report;
mod resuming;
