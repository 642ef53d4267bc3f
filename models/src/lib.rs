//! Models and data for the examples and tests of `burn-dist`.

pub mod data;
