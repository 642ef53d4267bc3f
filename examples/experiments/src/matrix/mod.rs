//! The matrix: which runs there are to be.

mod axes;
mod experiment;
mod link;
mod model;
mod plan;
mod precision;
mod preset;
mod recipe;
mod strategy;

pub use axes::{Axes, Expansion};
pub use experiment::Experiment;
pub use link::{FAR, Link, MaybeLink, NEAR};
pub use model::{Model, Program};
pub use plan::Matrix;
pub use precision::Precision;
pub use preset::{Scale, study_a, study_b};
pub use recipe::{Device, Recipe};
pub use strategy::Strategy;
