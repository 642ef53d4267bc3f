//! From the outputs of all ranks to one: what a metric sees is what one device would have computed.

use crate::parts::{JoinedParts, Parts};
use burn_dist::Result;
use burn_train::{
    ClassificationOutput, ItemLazy, MultiLabelClassificationOutput, RegressionOutput,
    SequenceOutput,
};

/// An output of a step that rank 0 can put together from those of all ranks.
///
/// Burn's outputs for classification, with one label or several, for regression and for sequences have it.
/// An output of one's own takes itself apart into tensors of which a row is a sample:
///
/// ```
/// use burn::tensor::{ExecutionError, Tensor};
/// use burn_dist::Result;
/// use burn_dist_train::{JoinedParts, Parts, RankOutput};
/// use burn_train::ItemLazy;
///
/// struct Embedded {
///     loss: Tensor<1>,
///     vectors: Tensor<2>,
/// }
///
/// impl ItemLazy for Embedded {
///     fn sync(self) -> std::result::Result<Self, ExecutionError> {
///         Ok(self)
///     }
/// }
///
/// impl RankOutput for Embedded {
///     fn samples(&self) -> usize {
///         self.vectors.dims()[0]
///     }
///
///     fn take_apart(self, parts: &mut Parts) {
///         parts.loss(self.loss);
///         parts.rows(self.vectors);
///     }
///
///     fn put_together(parts: &mut JoinedParts) -> Result<Self> {
///         let loss = parts.loss()?;
///         let vectors = parts.rows()?;
///         Ok(Self { loss, vectors })
///     }
/// }
/// ```
pub trait RankOutput: ItemLazy + 'static {
    /// The number of samples that it is the output of.
    fn samples(&self) -> usize;

    /// Gives its tensors away, in an order of its own.
    fn take_apart(self, parts: &mut Parts);

    /// The output of all ranks together, from their parts in the same order.
    ///
    /// # Errors
    /// Those of [`JoinedParts`].
    fn put_together(parts: &mut JoinedParts) -> Result<Self>;
}

/// No output, of a step whose metrics look at none; its samples are unknown, so ranks count alike.
impl RankOutput for () {
    fn samples(&self) -> usize {
        1
    }

    fn take_apart(self, _: &mut Parts) {}

    fn put_together(_: &mut JoinedParts) -> Result<Self> {
        Ok(())
    }
}

impl RankOutput for ClassificationOutput {
    fn samples(&self) -> usize {
        self.targets.dims()[0]
    }

    fn take_apart(self, parts: &mut Parts) {
        parts.loss(self.loss);
        parts.rows(self.output);
        parts.int_rows(self.targets);
    }

    fn put_together(parts: &mut JoinedParts) -> Result<Self> {
        let (loss, output) = (parts.loss()?, parts.rows()?);
        Ok(Self::new(loss, output, parts.int_rows()?))
    }
}

impl RankOutput for MultiLabelClassificationOutput {
    fn samples(&self) -> usize {
        self.targets.dims()[0]
    }

    fn take_apart(self, parts: &mut Parts) {
        parts.loss(self.loss);
        parts.rows(self.output);
        parts.int_rows(self.targets);
    }

    fn put_together(parts: &mut JoinedParts) -> Result<Self> {
        let (loss, output) = (parts.loss()?, parts.rows()?);
        Ok(Self::new(loss, output, parts.int_rows()?))
    }
}

impl RankOutput for RegressionOutput {
    fn samples(&self) -> usize {
        self.targets.dims()[0]
    }

    fn take_apart(self, parts: &mut Parts) {
        parts.loss(self.loss);
        parts.rows(self.output);
        parts.rows(self.targets);
    }

    fn put_together(parts: &mut JoinedParts) -> Result<Self> {
        let (loss, output) = (parts.loss()?, parts.rows()?);
        Ok(Self::new(loss, output, parts.rows()?))
    }
}

/// A sample is a sequence. Ranks must pad theirs to one length.
impl RankOutput for SequenceOutput {
    fn samples(&self) -> usize {
        self.targets.dims()[0]
    }

    fn take_apart(self, parts: &mut Parts) {
        parts.loss(self.loss);
        parts.rows(self.logits);
        parts.int_rows(self.targets);
        parts.flag(self.predictions.is_some());
        if let Some(predictions) = self.predictions {
            parts.int_rows(predictions);
        }
    }

    fn put_together(parts: &mut JoinedParts) -> Result<Self> {
        let (loss, logits) = (parts.loss()?, parts.rows()?);
        let targets = parts.int_rows()?;
        let predictions = if parts.flag()? {
            Some(parts.int_rows()?)
        } else {
            None
        };
        Ok(Self::new(loss, logits, predictions, targets))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::parts::{Share, gather};
    use burn::tensor::{Device, Int, Tensor};
    use burn_dist::launch::Threads;

    /// Rank `r` of 4 has `r + 1` samples, but rank 2 has padding.
    fn gathered<O: RankOutput>(
        output: impl Fn(usize) -> O + Sync,
        check: impl Fn(O, usize) + Sync,
    ) -> Result<()> {
        Threads::new(4).run(|world| {
            let own = output(world.rank());
            let share = Share::of(&own, own.samples() as f64, world.rank() == 2)?;
            let found = gather(&world, own, share)?;
            assert_eq!(found.is_some(), world.is_chief());
            if let Some((found, samples)) = found {
                check(found, samples);
            }
            Ok(())
        })?;
        Ok(())
    }

    fn loss(rank: usize) -> Tensor<1> {
        Tensor::from_floats([rank as f32], &Device::flex())
    }

    fn floats<const D: usize>(rank: usize, shape: [usize; D]) -> Tensor<D> {
        let all =
            Tensor::<1, Int>::arange(0..shape.iter().product::<usize>() as i64, &Device::flex());
        (all.float() + 100.0 * rank as f32).reshape(shape)
    }

    /// Of ranks 0, 1 and 3.
    fn all<const D: usize>(part: impl Fn(usize) -> Tensor<D>) -> Tensor<D> {
        Tensor::cat(vec![part(0), part(1), part(3)], 0)
    }

    fn check_loss(loss: Tensor<1>) {
        let mean = (0.0 + 2.0 * 1.0 + 4.0 * 3.0) / 7.0;
        let found = loss.into_data().iter::<f32>().collect::<Vec<_>>();
        assert!(
            found.len() == 1 && (found[0] - mean).abs() < 1e-6,
            "{found:?}"
        );
    }

    #[test]
    fn rows_come_by_rank_and_padding_is_cut_off() -> Result<()> {
        let own = |rank: usize| {
            let rows = rank + 1;
            let targets = floats(rank, [rows]).int();
            ClassificationOutput::new(loss(rank), floats(rank, [rows, 3]), targets)
        };
        gathered(own, |found, samples| {
            assert_eq!(samples, 7);
            check_loss(found.loss);
            let rows = all(|rank| floats(rank, [rank + 1, 3]));
            found.output.into_data().assert_eq(&rows.into_data(), true);
            let targets = all(|rank| floats(rank, [rank + 1])).int();
            found
                .targets
                .into_data()
                .assert_eq(&targets.into_data(), true);
        })
    }

    #[test]
    fn outputs_of_burns_other_kinds_are_joined_too() -> Result<()> {
        let own = |rank: usize| {
            let values = |shift| floats(rank + shift, [rank + 1, 2]);
            RegressionOutput::new(loss(rank), values(0), values(7))
        };
        gathered(own, |found, _| {
            check_loss(found.loss);
            let rows = |shift| all(|rank| floats(rank + shift, [rank + 1, 2])).into_data();
            found.output.into_data().assert_eq(&rows(0), true);
            found.targets.into_data().assert_eq(&rows(7), true);
        })?;
        let own = |rank: usize| {
            let values = |shift| floats(rank + shift, [rank + 1, 2]);
            MultiLabelClassificationOutput::new(loss(rank), values(0), values(7).int())
        };
        gathered(own, |found, _| {
            let rows = all(|rank| floats(rank + 7, [rank + 1, 2])).int();
            found.targets.into_data().assert_eq(&rows.into_data(), true);
        })?;
        for predicts in [false, true] {
            let own = |rank: usize| {
                let tokens = |shift| floats(rank + shift, [rank + 1, 5]).int();
                let logits = floats(rank, [rank + 1, 5, 3]);
                SequenceOutput::new(loss(rank), logits, predicts.then(|| tokens(3)), tokens(7))
            };
            gathered(own, |found, samples| {
                assert_eq!((samples, found.predictions.is_some()), (7, predicts));
                let logits = all(|rank| floats(rank, [rank + 1, 5, 3]));
                found
                    .logits
                    .into_data()
                    .assert_eq(&logits.into_data(), true);
                if let Some(found) = found.predictions {
                    let rows = all(|rank| floats(rank + 3, [rank + 1, 5])).int();
                    found.into_data().assert_eq(&rows.into_data(), true);
                }
            })?;
        }
        Ok(())
    }

    #[test]
    fn losses_of_samples_are_kept() -> Result<()> {
        let own = |rank: usize| {
            let rows = || floats(rank, [rank + 1, 1]);
            RegressionOutput::new(floats(rank, [rank + 1]), rows(), rows())
        };
        gathered(own, |found, _| {
            let losses = all(|rank| floats(rank, [rank + 1]));
            found.loss.into_data().assert_eq(&losses.into_data(), true);
        })
    }

    #[test]
    fn rows_of_different_widths_are_an_error() {
        let own = |rank: usize| {
            let rows = || floats(rank, [rank + 1, 2 + rank / 3]);
            RegressionOutput::new(loss(rank), rows(), rows())
        };
        let found = gathered(own, |_, _| panic!("they were joined"));
        let message = found.unwrap_err().to_string();
        assert!(message.contains("rows of [2] f32"), "{message}");
        assert!(message.contains("rows of [3] f32"), "{message}");
    }
}
