//! Scores of a classifier that are exact over ranks.

mod classification;
mod confusion_matrix;

pub use classification::Classification;
pub use confusion_matrix::{Average, ConfusionMatrix};
