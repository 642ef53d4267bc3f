//! The score by which epochs are compared.

use burn_dist::checkpoint::Best;
use burn_dist::training::EarlyStopping;
use burn_dist::{Error, Result, World};
use burn_dist_log::Scores;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A score of an evaluation, of which the best epoch has the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Monitor {
    /// The share of samples whose class is found: the highest.
    Accuracy,
    /// F1, weighted by the samples of each class: the highest.
    F1,
    /// The mean loss: the lowest.
    Loss,
}

impl Monitor {
    /// Its value.
    pub fn of(self, scores: &Scores) -> f64 {
        match self {
            Self::Accuracy => scores.accuracy,
            Self::F1 => scores.f1,
            Self::Loss => scores.loss,
        }
    }

    /// Its name, which a save's metric has.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::Loss => "loss",
        }
    }

    /// Which of two values is better.
    pub fn best(self) -> Best {
        match self {
            Self::Loss => Best::Lowest,
            Self::Accuracy | Self::F1 => Best::Highest,
        }
    }

    /// Finds the best epoch, and stops after `patience` epochs without a better one; without a patience it never does.
    ///
    /// # Errors
    /// [`Error::Config`](burn_dist::Error::Config) for a patience of 0.
    pub fn stopping(self, patience: Option<usize>) -> Result<EarlyStopping> {
        let patience = patience.unwrap_or(usize::MAX);
        match self.best() {
            Best::Lowest => EarlyStopping::lowest(patience),
            Best::Highest => EarlyStopping::highest(patience),
        }
    }
}

/// The best epoch so far, and the score by which it is; a part of a save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestEpoch {
    monitor: Monitor,
    stopping: EarlyStopping,
}

impl BestEpoch {
    /// That of a run without epochs.
    ///
    /// # Errors
    /// [`Error::Config`] for a patience of 0.
    pub fn none(monitor: Monitor, patience: Option<usize>) -> Result<Self> {
        Ok(Self {
            monitor,
            stopping: monitor.stopping(patience)?,
        })
    }

    /// The one that a save holds, for a run with these arguments.
    ///
    /// # Errors
    /// [`Error::Config`] if it is the best by another score, with which the next ones do not compare, and for a patience of 0.
    pub fn resumed(self, monitor: Monitor, patience: Option<usize>) -> Result<Self> {
        if self.monitor != monitor {
            let expected = format!(
                "{}, by which the save has its best epoch",
                self.monitor.name()
            );
            return Err(Error::config("--monitor", expected, monitor.name()));
        }
        Ok(Self {
            stopping: self.stopping.patience(patience.unwrap_or(usize::MAX))?,
            ..self
        })
    }

    /// Takes the scores of the next epoch; whether they are the best so far. Collective.
    ///
    /// # Errors
    /// Those of [`EarlyStopping::is_best`].
    pub fn update(&mut self, world: &World, scores: &Scores) -> Result<bool> {
        self.stopping.is_best(world, self.monitor.of(scores))
    }

    /// Whether as many epochs as the patience brought no better one.
    pub fn should_stop(&self) -> bool {
        self.stopping.should_stop()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_best_epoch_by_another_score_is_an_error() {
        let best = BestEpoch::none(Monitor::Accuracy, Some(2)).unwrap();
        let again = best.clone().resumed(Monitor::Accuracy, None).unwrap();
        assert!(!again.should_stop());
        let error = best.resumed(Monitor::Loss, None).unwrap_err().to_string();
        assert!(
            error.contains("--monitor") && error.contains("accuracy"),
            "{error}"
        );
        assert!(error.contains("loss"), "{error}");
    }
}
