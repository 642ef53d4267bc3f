//! The scores of a classifier, collected batch by batch and reduced over ranks once.

use super::ConfusionMatrix;
use crate::error::{Error, Result};
use crate::numbers::{Numbers, Reducible};
use burn::tensor::{DType, Int, Tensor};

/// How many of the likeliest classes a sample's own may be among.
const TOP: usize = 5;

/// What a classifier made of the samples seen so far: confusion matrix, top-5 hits and summed cross-entropy.
///
/// Each rank adds its own batches, padding left out by its weight of 0, and [`World::sum`](crate::World::sum) adds up the ranks: counts
/// are exactly those of one device, the loss within the rounding of f64.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::prelude::*;
/// use burn_dist::training::{Average, Classification};
///
/// let accuracies = Threads::new(2).run(|world| {
///     let device = Device::flex();
///     let logits = Tensor::<2>::from_data([[2.0, 1.0], [0.0, 3.0]], &device);
///     let labels = Tensor::from_data([0, world.rank() as i32], &device);
///     let mut found = Classification::new(2);
///     found.update(logits, labels, None)?;
///     let found = world.sum(found)?;
///     Ok((found.matrix().accuracy(), found.matrix().f1(Average::Micro)))
/// })?;
/// assert_eq!(accuracies, [(0.75, 0.75); 2]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// torchmetrics: `MetricCollection` of the multiclass scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    matrix: ConfusionMatrix,
    among_top: u64,
    loss: f64,
}

impl Classification {
    /// Without samples, for so many classes.
    pub fn new(classes: usize) -> Self {
        Self {
            matrix: ConfusionMatrix::new(classes),
            among_top: 0,
            loss: 0.0,
        }
    }

    /// Adds a batch: logits `[batch, classes]`, labels and weights `[batch]`. Samples of weight 0 are padding.
    ///
    /// The class of the largest logit is what a sample was taken for; of equal ones the first, and a NaN is larger than
    /// any number. The tensors are read from their device.
    ///
    /// # Errors
    /// [`Error::Config`] if shapes do not fit, or a label is no class.
    pub fn update(
        &mut self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
        weights: Option<Tensor<1>>,
    ) -> Result<()> {
        let [batch, classes] = logits.dims();
        let rows = weights.as_ref().map_or(batch, |w| w.dims()[0]);
        if classes != self.matrix.classes() || labels.dims() != [batch] || rows != batch {
            let expected = format!(
                "logits of {} classes, with a label and a weight for each row",
                self.matrix.classes()
            );
            let found = format!(
                "logits {:?}, labels {:?}, {rows} weights",
                logits.dims(),
                labels.dims()
            );
            return Err(Error::config("a batch to score", expected, found));
        }
        let unread = |e| Error::config("a batch to score", "tensors to read", format!("{e:?}"));
        let logits: Vec<f64> = logits.cast(DType::F32).into_data().iter::<f64>().collect();
        let labels: Vec<i64> = labels
            .into_data()
            .convert::<i64>()
            .try_into_vec::<i64>()
            .map_err(unread)?;
        let weights: Option<Vec<f64>> =
            weights.map(|w| w.cast(DType::F32).into_data().iter::<f64>().collect());
        for (row, (logits, label)) in logits.chunks(classes.max(1)).zip(labels).enumerate() {
            if weights.as_ref().is_some_and(|weights| weights[row] == 0.0) {
                continue;
            }
            let label = usize::try_from(label).unwrap_or(usize::MAX);
            self.matrix.add(label, largest(logits))?;
            let before = |(class, logit): (usize, &f64)| {
                let order = logit.total_cmp(&logits[label]);
                order.is_gt() || (order.is_eq() && class < label)
            };
            let rank = logits.iter().enumerate().filter(|at| before(*at)).count();
            self.among_top += u64::from(rank < TOP);
            self.loss += cross_entropy(logits, label);
        }
        Ok(())
    }

    /// Which classes were taken for which.
    pub fn matrix(&self) -> &ConfusionMatrix {
        &self.matrix
    }

    /// Samples, padding left out.
    pub fn samples(&self) -> u64 {
        self.matrix.samples()
    }

    /// The mean cross-entropy of a sample; NaN without samples.
    pub fn loss(&self) -> f64 {
        self.loss / self.samples() as f64
    }

    /// The share of samples whose class is among the five likeliest; `None` with five classes or fewer, where it
    /// says nothing.
    pub fn top5(&self) -> Option<f64> {
        let share = self.among_top as f64 / self.samples() as f64;
        (self.matrix.classes() > TOP).then_some(share)
    }
}

/// The first of the largest logits.
fn largest(logits: &[f64]) -> usize {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if logit.total_cmp(&logits[best]).is_gt() {
            best = class;
        }
    }
    best
}

fn cross_entropy(logits: &[f64], label: usize) -> f64 {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    sum.ln() + highest - logits[label]
}

impl Reducible for Classification {
    fn write(&self, to: &mut Numbers) {
        self.matrix.write(to);
        (self.among_top, self.loss).write(to);
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        let matrix = self.matrix.read(from)?;
        let (among_top, loss) = (self.among_top, self.loss).read(from)?;
        Ok(Self {
            matrix,
            among_top,
            loss,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn scored(logits: Vec<Vec<f32>>, labels: &[i32], weights: Option<&[f32]>) -> Classification {
        let device = Device::flex();
        let (rows, classes) = (logits.len(), logits[0].len());
        let logits = Tensor::<1>::from_floats(logits.concat().as_slice(), &device);
        let labels = Tensor::<1, Int>::from_data(labels, &device);
        let weights = weights.map(|weights| Tensor::from_data(weights, &device));
        let mut found = Classification::new(classes);
        found
            .update(logits.reshape([rows, classes]), labels, weights)
            .unwrap();
        found
    }

    #[test]
    fn padding_does_not_count() {
        let rows = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![9.0, 0.0]];
        let found = scored(rows, &[0, 1, 1], Some(&[1.0, 1.0, 0.0]));
        assert_eq!((found.samples(), found.matrix().accuracy()), (2, 1.0));
        let expected = (1.0 + (-1.0_f64).exp()).ln();
        assert!((found.loss() - expected).abs() < 1e-12);
    }

    #[test]
    fn top_five_breaks_ties_as_the_prediction_does() {
        let rows = vec![
            vec![1.0; 7],
            vec![1.0; 7],
            vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        ];
        let found = scored(rows, &[4, 5, 2], None);
        assert_eq!(found.top5(), Some(2.0 / 3.0));
        assert_eq!(found.matrix().count(4, 0), 1);
        assert_eq!(scored(vec![vec![1.0; 5]], &[0], None).top5(), None);
    }

    #[test]
    fn a_logit_that_is_not_a_number_shows_in_the_loss() {
        let found = scored(vec![vec![f32::NAN, 1.0]], &[1], None);
        assert!(found.loss().is_nan());
        assert_eq!(found.matrix().count(1, 0), 1);
    }

    #[test]
    fn a_label_that_is_no_class_is_an_error() {
        let device = Device::flex();
        for label in [2, -1] {
            let error = Classification::new(2)
                .update(
                    Tensor::zeros([1, 2], &device),
                    Tensor::from_data([label], &device),
                    None,
                )
                .unwrap_err();
            assert!(error.to_string().contains("number of classes"), "{error}");
        }
        let mut three = Classification::new(3);
        let shape = Tensor::zeros([1, 2], &device);
        assert!(
            three
                .update(shape, Tensor::from_data([0], &device), None)
                .is_err()
        );
    }
}
