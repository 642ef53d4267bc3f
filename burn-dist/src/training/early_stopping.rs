//! When a score no longer improves.

use crate::error::{Error, Result};
use crate::world::World;
use serde::{Deserialize, Serialize};

/// The best score so far, and how long ago that was: decided alike on all ranks, and kept in saves.
///
/// ```
/// use burn_dist::prelude::*;
/// use burn_dist::training::EarlyStopping;
///
/// let epochs = Threads::new(2).run(|world| {
///     let mut stopping = EarlyStopping::lowest(2)?; // of a loss; two epochs without progress
///     for (epoch, loss) in [0.9, 0.5, 0.6, f64::NAN, 0.4].into_iter().enumerate() {
///         if stopping.is_best(&world, loss)? {
///             // Keep this model.
///         }
///         if stopping.should_stop() {
///             return Ok(epoch);
///         }
///     }
///     Ok(5)
/// })?;
/// assert_eq!(epochs, [3, 3]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// Lightning: `EarlyStopping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    highest: bool,
    patience: usize,
    best: Option<f64>,
    since: usize,
}

impl EarlyStopping {
    /// For a score that should fall, such as a loss: asks for the end after `patience` scores without a new
    /// best.
    ///
    /// # Errors
    /// [`Error::Config`] for a patience of 0.
    pub fn lowest(patience: usize) -> Result<Self> {
        if patience == 0 {
            let expected = "at least 1 score without progress";
            return Err(Error::config("the patience of early stopping", expected, 0));
        }
        Ok(Self {
            highest: false,
            patience,
            best: None,
            since: 0,
        })
    }

    /// For a score that should rise, such as an accuracy.
    ///
    /// # Errors
    /// As [`lowest`](Self::lowest).
    pub fn highest(patience: usize) -> Result<Self> {
        Ok(Self {
            highest: true,
            ..Self::lowest(patience)?
        })
    }

    /// The same with another patience, such as one that was read from a save.
    ///
    /// # Errors
    /// [`Error::Config`] for a patience of 0.
    pub fn patience(self, patience: usize) -> Result<Self> {
        Ok(Self {
            patience: Self::lowest(patience)?.patience,
            ..self
        })
    }

    /// Takes the next score; returns whether it is the best so far. One that is not a number never is.
    /// Collective: the ranks compare their scores, 16 bytes each.
    ///
    /// # Errors
    /// [`Error::Disagreement`] if ranks have different scores: sum over ranks first
    /// ([`World::sum`]).
    pub fn is_best(&mut self, world: &World, score: f64) -> Result<bool> {
        world.agree("the score of early stopping", &score)?;
        let better = |best: f64| {
            if self.highest {
                score > best
            } else {
                score < best
            }
        };
        let is_best = !score.is_nan() && self.best.is_none_or(better);
        if is_best {
            (self.best, self.since) = (Some(score), 0);
        } else {
            self.since += 1;
        }
        Ok(is_best)
    }

    /// The best score so far.
    pub fn best(&self) -> Option<f64> {
        self.best
    }

    /// Whether as many scores as the patience brought no new best; the same on all ranks.
    pub fn should_stop(&self) -> bool {
        self.since >= self.patience
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::Threads;

    #[test]
    fn ranks_with_different_scores_are_an_error_on_all() {
        let found = Threads::new(3).run(|world| {
            let mut stopping = EarlyStopping::highest(1)?;
            assert!(stopping.is_best(&world, 0.5)?);
            let error = stopping
                .is_best(&world, world.rank() as f64 / 4.0)
                .unwrap_err();
            Ok((error.to_string(), stopping.best()))
        });
        for (error, best) in found.unwrap() {
            assert!(
                error.starts_with("the score of early stopping differs"),
                "{error}"
            );
            assert_eq!(best, Some(0.5));
        }
        assert!(EarlyStopping::lowest(0).is_err());
    }
}
