//! Evaluation: the exact accuracy of a model over all ranks.

use crate::data::Classified;
use burn::tensor::Tensor;
use burn_dist::data::Loader;
use burn_dist::nn::loss::{correct, cross_entropy_sum};
use burn_dist::training;
use burn_dist::{Result, World};

/// The accuracy and loss of a model on a data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// The share of samples whose class is found, between 0 and 1.
    pub accuracy: f64,
    /// The mean cross-entropy.
    pub loss: f64,
    /// Number of samples.
    pub samples: usize,
}

/// Runs `forward`, which gives a batch's logits, over a rank's share of a data set, and sums over ranks.
///
/// Every sample counts once, so the result is that of one device. `None` if a rank is to stop
/// ([`World::should_stop`]), which is checked before every batch, as an evaluation may be longer than a
/// scheduler's grace period. Collective.
///
/// # Errors
/// What the loader or a collective returns.
pub fn evaluate<B: Classified + Send + 'static>(
    world: &World,
    data: &Loader<B>,
    forward: impl Fn(B) -> Tensor<2>,
) -> Result<Option<Evaluation>> {
    let sums = training::evaluate(world, data, |batch| {
        let batch = batch.inner();
        let (labels, weights) = (batch.labels(), Some(batch.weights()));
        let samples = batch.count() as f64;
        let logits = world.run(|| forward(batch).inner())?;
        let correct = number(correct(logits.clone(), labels.clone(), weights.clone()));
        Ok([
            correct,
            number(cross_entropy_sum(logits, labels, weights)),
            samples,
        ])
    })?;
    let Some([correct, loss, samples]) = sums else {
        return Ok(None);
    };
    Ok(Some(Evaluation {
        accuracy: correct / samples,
        loss: loss / samples,
        samples: samples as usize,
    }))
}

fn number(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}
