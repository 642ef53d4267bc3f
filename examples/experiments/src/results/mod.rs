//! What runs have left in their folders, and what follows from them.

mod config;
mod run;
mod speed_up;
mod utilisation;

pub use config::RunConfig;
pub use run::{Run, Status};
pub use speed_up::SpeedUp;
pub use utilisation::Sample;

use crate::Result;
use crate::matrix::Matrix;
use std::path::Path;

/// All runs of a matrix, in its order.
///
/// # Errors
/// [`Error::File`](crate::Error::File) for the records of a finished run that cannot be read.
pub fn read(out: &Path, matrix: &Matrix) -> Result<Vec<Run>> {
    let all = matrix.experiments.iter();
    all.map(|one| Run::read(out, one)).collect()
}
