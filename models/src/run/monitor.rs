//! The score by which epochs are compared.

use burn_dist::Result;
use burn_dist::checkpoint::Best;
use burn_dist::training::EarlyStopping;
use burn_dist_log::Scores;
use clap::ValueEnum;
use serde::Serialize;

/// A score of an evaluation, of which the best epoch has the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
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
