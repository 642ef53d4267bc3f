//! Losses as sums over samples, for [`World::backward_sum`](crate::World::backward_sum).
//!
//! The mean over ranks of each rank's mean is the mean over samples only if all ranks have equally many. With uneven
//! batches, padding or ignored labels the ranks' *sums* are added and divided by what all ranks have: these functions
//! give the sum, and `backward_sum` divides. Each takes a weight for each sample, 0 for padding.

mod correct;
mod cross_entropy;
mod elementwise;

pub use correct::correct;
pub use cross_entropy::{CrossEntropy, IGNORED, cross_entropy, cross_entropy_sum};
pub use elementwise::{binary_cross_entropy_sum, mse_sum};
