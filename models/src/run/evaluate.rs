//! Evaluation: the exact scores of a classifier over all ranks.

use crate::data::Classified;
use burn::tensor::Tensor;
use burn_dist::data::Loader;
use burn_dist::training::{self, Average, Classification};
use burn_dist::{Result, World};
use burn_dist_log::Scores;

/// Runs `forward`, which gives a batch's logits, over a rank's share of a data set, and sums over ranks.
///
/// Every sample counts once, so the scores are those of one device. `None` if a rank is to stop
/// ([`World::should_stop`]), which is checked before every batch, as an evaluation may be longer than a
/// scheduler's grace period. Collective.
///
/// # Errors
/// What the loader or a collective returns.
pub fn evaluate<B: Classified + Send + 'static>(
    world: &World,
    data: &Loader<B>,
    classes: usize,
    forward: impl Fn(B) -> Tensor<2>,
) -> Result<Option<Scores>> {
    let mut found = Classification::new(classes);
    let all = training::evaluate(world, data, |batch| {
        let batch = batch.inner();
        let (labels, weights) = (batch.labels(), Some(batch.weights()));
        let logits = world.run(|| forward(batch).inner())?;
        found.update(logits, labels, weights)?;
        Ok([])
    })?;
    if all.is_none() {
        return Ok(None);
    }
    Ok(Some(scores(&world.sum(found)?)))
}

fn scores(found: &Classification) -> Scores {
    let matrix = found.matrix();
    Scores {
        samples: found.samples(),
        loss: found.loss(),
        accuracy: matrix.accuracy(),
        precision: matrix.precision(Average::Weighted),
        recall: matrix.recall(Average::Weighted),
        f1: matrix.f1(Average::Weighted),
        macro_f1: matrix.f1(Average::Macro),
        top5: found.top5(),
    }
}
