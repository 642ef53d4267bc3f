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
