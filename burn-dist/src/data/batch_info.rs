//! What a batch is made of, for whoever makes it.

use super::Step;

/// The description of a batch, for the closure that builds it.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchInfo {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// The step within the epoch, counted from 0; as in [`Step::step`](super::Step).
    pub step: usize,
    /// The index of each item in the dataset, in the items' order.
    pub indices: Vec<usize>,
    /// The weight of each item's loss: 1 for a sample, 0 for the padding of a rank that has none.
    pub weights: Vec<f32>,
    /// The number of samples, padding not counted: the sum of the weights.
    pub count: usize,
    /// The number of samples of all ranks in this step: what the summed loss is divided by.
    pub global_count: usize,
}

impl BatchInfo {
    /// Adds the padding to a step without samples.
    pub(super) fn of(step: Step) -> Self {
        let count = step.indices.len();
        let (indices, weights) = if count == 0 {
            (vec![0], vec![0.0])
        } else {
            (step.indices, vec![1.0; count])
        };
        Self {
            epoch: step.epoch,
            step: step.step,
            indices,
            weights,
            count,
            global_count: step.global_count,
        }
    }
}
