//! Which classes a classifier takes for which, and the scores that follow from that.

use crate::error::{Error, Result};
use crate::numbers::{Numbers, Reducible};

/// How the scores of the classes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// The mean of the classes, each weighing the same.
    Macro,
    /// The score of all classes' counts together, which for single labels is the accuracy.
    Micro,
    /// The mean of the classes, each weighing as its samples do.
    Weighted,
}

/// How many samples of each class were taken for each class.
///
/// The counts of several ranks add up ([`World::sum`](crate::World::sum)), so that every score that follows from
/// them is exactly that of one device. A class without samples counts in a macro average if something was taken for it,
/// as in scikit-learn; a score whose divisor is 0 is 0.
///
/// ```
/// use burn_dist::prelude::*;
/// use burn_dist::training::{Average, ConfusionMatrix};
///
/// let scores = Threads::new(2).run(|world| {
///     let mut matrix = ConfusionMatrix::new(3);
///     let mine = [[(0, 0), (1, 2)], [(2, 2), (1, 1)]][world.rank()];
///     for (label, predicted) in mine {
///         matrix.add(label, predicted)?;
///     }
///     let matrix = world.sum(matrix)?;
///     Ok((matrix.accuracy(), matrix.recall(Average::Macro)))
/// })?;
/// assert_eq!(scores, [(0.75, (1.0 + 0.5 + 1.0) / 3.0); 2]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Cost
/// 8 bytes for each pair of classes.
///
/// # Source
/// scikit-learn: `confusion_matrix`, `precision_recall_fscore_support`; torchmetrics: `MulticlassConfusionMatrix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    /// Row by row, a row for each label.
    counts: Vec<u64>,
}

/// The counts of one class.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Samples that are of it and were taken for it.
    both: u64,
    /// Samples that were taken for it.
    predicted: u64,
    /// Samples that are of it.
    labelled: u64,
}

impl Counts {
    fn precision(self) -> f64 {
        ratio(self.both, self.predicted)
    }

    fn recall(self) -> f64 {
        ratio(self.both, self.labelled)
    }

    fn f1(self) -> f64 {
        ratio(2 * self.both, self.predicted + self.labelled)
    }
}

fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 {
        0.0
    } else {
        part as f64 / of as f64
    }
}

impl ConfusionMatrix {
    /// Without samples, for so many classes.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Adds a sample of class `label` that was taken for `predicted`.
    ///
    /// # Errors
    /// [`Error::Config`] if one of them is no class.
    pub fn add(&mut self, label: usize, predicted: usize) -> Result<()> {
        for (what, class) in [("a label", label), ("a predicted class", predicted)] {
            if class >= self.classes {
                let expected = format!("below {}, the number of classes", self.classes);
                return Err(Error::config(what, expected, class));
            }
        }
        self.counts[label * self.classes + predicted] += 1;
        Ok(())
    }

    /// Samples of class `label` that were taken for `predicted`; 0 if one of them is no class.
    pub fn count(&self, label: usize, predicted: usize) -> u64 {
        if label.max(predicted) < self.classes {
            self.counts[label * self.classes + predicted]
        } else {
            0
        }
    }

    /// All samples.
    pub fn samples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The share of samples whose class was found.
    pub fn accuracy(&self) -> f64 {
        let found = (0..self.classes).map(|class| self.count(class, class));
        ratio(found.sum(), self.samples())
    }

    /// Of the samples taken for a class, the share that is of it.
    pub fn precision(&self, average: Average) -> f64 {
        self.average(average, Counts::precision)
    }

    /// Of the samples of a class, the share that was taken for it.
    pub fn recall(&self, average: Average) -> f64 {
        self.average(average, Counts::recall)
    }

    /// The harmonic mean of precision and recall of a class.
    pub fn f1(&self, average: Average) -> f64 {
        self.average(average, Counts::f1)
    }

    fn class(&self, class: usize) -> Counts {
        let all = || 0..self.classes;
        Counts {
            both: self.count(class, class),
            predicted: all().map(|label| self.count(label, class)).sum(),
            labelled: all().map(|other| self.count(class, other)).sum(),
        }
    }

    fn average(&self, average: Average, score: fn(Counts) -> f64) -> f64 {
        let classes = (0..self.classes).map(|class| self.class(class));
        let seen = classes.filter(|counts| counts.predicted + counts.labelled > 0);
        let (sum, weights) = match average {
            Average::Micro => return self.accuracy(),
            Average::Macro => seen.fold((0.0, 0.0), |(sum, n), c| (sum + score(c), n + 1.0)),
            Average::Weighted => seen.fold((0.0, 0.0), |(sum, n), c| {
                let weight = c.labelled as f64;
                (sum + weight * score(c), n + weight)
            }),
        };
        if weights == 0.0 { 0.0 } else { sum / weights }
    }
}

impl Reducible for ConfusionMatrix {
    fn write(&self, to: &mut Numbers) {
        self.counts.write(to);
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        Ok(Self {
            counts: self.counts.read(from)?,
            ..self
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matrix(rows: &[&[u64]]) -> ConfusionMatrix {
        ConfusionMatrix {
            classes: rows.len(),
            counts: rows.concat(),
        }
    }

    /// Each score by its definition, from the counts.
    #[test]
    fn scores_are_those_of_their_definitions() {
        let found = matrix(&[&[5, 2, 0], &[1, 7, 3], &[0, 4, 2]]);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(found.accuracy(), 14.0 / 24.0);
        close(
            found.precision(Average::Macro),
            (5.0 / 6.0 + 7.0 / 13.0 + 2.0 / 5.0) / 3.0,
        );
        close(
            found.recall(Average::Macro),
            (5.0 / 7.0 + 7.0 / 11.0 + 2.0 / 6.0) / 3.0,
        );
        let f1 = [10.0 / 13.0, 14.0 / 24.0, 4.0 / 11.0];
        close(found.f1(Average::Macro), f1.iter().sum::<f64>() / 3.0);
        let weighted = (7.0 * f1[0] + 11.0 * f1[1] + 6.0 * f1[2]) / 24.0;
        close(found.f1(Average::Weighted), weighted);
        close(found.recall(Average::Weighted), found.accuracy());
        close(found.f1(Average::Micro), found.accuracy());
    }

    #[test]
    fn a_class_that_nobody_saw_does_not_count() {
        let found = matrix(&[&[3, 0, 0], &[0, 0, 0], &[1, 0, 0]]);
        assert_eq!(found.recall(Average::Macro), 0.5);
        assert_eq!(found.precision(Average::Macro), 0.375);
        let none = ConfusionMatrix::new(2);
        assert_eq!((none.accuracy(), none.f1(Average::Weighted)), (0.0, 0.0));
        assert!(ConfusionMatrix::new(2).add(2, 0).is_err());
        assert!(ConfusionMatrix::new(2).add(0, 2).is_err());
    }
}
