//! The cross-entropy of classes with their scores.

use super::tape::{parents, register};
use crate::flex::{contiguous, dims, integers, is_fused, slice, tensor};
use crate::rows::block;
use crate::simd::{self, Kernel, MulAdd, exp, max, sum};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{FloatDType, Int, Tensor, activation::log_softmax};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::sync::Arc;

/// The cross-entropy of each row with its label, summed: a tensor of one element.
///
/// - `logits`: `[rows, classes]`.
/// - `labels`: `[rows]`, the index of each row's class.
/// - `weights`: `[rows]`, what each row counts for, without gradient; without them each counts 1.
/// - `ignored`: the label of rows that count nothing (PyTorch's `ignore_index`); they are not read.
///
/// The gradient of a row's logits is its weight times (softmax - one-hot). About 2 ns a logit of a row that is
/// not ignored, forward and backward together, on one core with AVX2.
///
/// # Panics
///
/// If a label is neither a class nor ignored; on a GPU, as the device's `gather`.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_nn::functional::cross_entropy_sum;
///
/// let device = Device::flex();
/// let labels = Tensor::<1, Int>::from_data([4, -100, 0], &device);
/// let loss = cross_entropy_sum(Tensor::zeros([3, 10], &device), labels, None, Some(-100));
/// assert!((loss.into_scalar::<f32>() - 2.0 * 10f32.ln()).abs() < 1e-5);
/// ```
pub fn cross_entropy_sum(
    logits: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Option<Tensor<1>>,
    ignored: Option<i64>,
) -> Tensor<1> {
    let [rows, _] = logits.dims();
    assert_eq!([rows], labels.dims(), "a label for each row");
    if let Some(weights) = &weights {
        assert_eq!([rows], weights.dims(), "a weight for each row");
    }
    let weights = weights.map(|weights| {
        if weights.device().is_autodiff() {
            // Another node on the tape: they take no gradient.
            Tensor::from_inner(weights.without_autodiff())
        } else {
            weights
        }
    });
    if !is_fused(&logits) {
        return composed(logits, labels, weights, ignored);
    }
    let weights = weights.map(|weights| weights.cast(FloatDType::F32));
    // An operation takes no optional tensors: no elements stand for none.
    let weights = weights.unwrap_or_else(|| Tensor::empty([0], &logits.device().inner()));
    Tensor::from_dispatch(<Dispatch as CrossEntropy>::fused_cross_entropy(
        logits.into_dispatch(),
        labels.into_dispatch(),
        weights.without_autodiff().into_dispatch(),
        ignored,
    ))
}

/// The same of Burn's operations.
fn composed(
    logits: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Option<Tensor<1>>,
    ignored: Option<i64>,
) -> Tensor<1> {
    let dtype: FloatDType = logits.dtype().into();
    let ignored = ignored.map(|ignored| labels.clone().equal_elem(ignored));
    let labels = match &ignored {
        Some(ignored) => labels.mask_fill(ignored.clone(), 0),
        None => labels,
    };
    let mut of_label = log_softmax(logits, 1)
        .gather(1, labels.unsqueeze_dim(1))
        .squeeze_dim::<1>(1);
    if let Some(ignored) = ignored {
        // Not a product with 0, which keeps what is no number.
        of_label = of_label.mask_fill(ignored, 0.0);
    }
    let weights = weights.map(|weights| weights.cast(dtype));
    let counted = match weights {
        Some(weights) => of_label * weights,
        None => of_label,
    };
    counted.sum().neg()
}

/// The largest element of a row, and the logarithm of the sum of the exponentials of the others less that.
///
/// The two are kept apart: their sum has lost what is small beside the largest.
struct LogSumExp<'a> {
    row: &'a [f32],
}

impl Kernel for LogSumExp<'_> {
    type Output = [f32; 2];

    #[inline(always)]
    fn run<M: MulAdd>(self) -> [f32; 2] {
        let largest = max(self.row);
        let total = sum(self.row.len(), |i, sum| {
            sum + exp::<M>(self.row[i] - largest)
        });
        [largest, total.ln()]
    }
}

/// The softmax of a row, times a factor.
struct Softmax<'a> {
    row: &'a [f32],
    log_sum_exp: [f32; 2],
    factor: f32,
    out: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let [largest, log_sum] = self.log_sum_exp;
        for (out, &x) in self.out.iter_mut().zip(self.row) {
            *out = exp::<M>((x - largest) - log_sum) * self.factor;
        }
    }
}

/// A row that counts: its label, its weight, and what [`LogSumExp`] finds.
#[derive(Debug, Clone, Copy)]
struct Labelled {
    label: usize,
    weight: f32,
    log_sum_exp: [f32; 2],
}

#[backend_extension(Flex, Autodiff)]
trait CrossEntropy: Backend {
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weights: FloatTensor<Self>,
        ignored: Option<i64>,
    ) -> FloatTensor<Self>;
}

trait CrossEntropyBackward: CrossEntropy {
    /// The sum, and what backward reads of each row; `None` where it is ignored.
    fn with_rows(
        logits: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weights: FloatTensor<Self>,
        ignored: Option<i64>,
    ) -> (FloatTensor<Self>, Arc<[Option<Labelled>]>);

    /// The gradient of the logits; `gradient` is of one element.
    fn fused_cross_entropy_backward(
        logits: FloatTensor<Self>,
        rows: &[Option<Labelled>],
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl CrossEntropy for Flex {
    fn fused_cross_entropy(
        logits: FlexTensor,
        labels: FlexTensor,
        weights: FlexTensor,
        ignored: Option<i64>,
    ) -> FlexTensor {
        Self::with_rows(logits, labels, weights, ignored).0
    }
}

impl CrossEntropyBackward for Flex {
    fn with_rows(
        logits: FlexTensor,
        labels: FlexTensor,
        weights: FlexTensor,
        ignored: Option<i64>,
    ) -> (FlexTensor, Arc<[Option<Labelled>]>) {
        let (logits, weights) = (contiguous(logits), contiguous(weights));
        let [_, classes] = dims(&logits);
        let (logits, weights) = (slice(&logits), slice(&weights));
        let labels = integers(labels);
        let of_row = |row: usize| {
            let label = labels[row];
            if Some(label) == ignored {
                return None;
            }
            let found = usize::try_from(label).ok().filter(|&label| label < classes);
            assert!(
                found.is_some(),
                "label {label} of row {row}, of {classes} classes"
            );
            Some(Labelled {
                label: found?,
                weight: weights.get(row).copied().unwrap_or(1.0),
                log_sum_exp: simd::run(LogSumExp {
                    row: &logits[row * classes..][..classes],
                }),
            })
        };
        let rows = (0..labels.len()).into_par_iter();
        let rows = rows.with_min_len(block(classes));
        let rows: Arc<[Option<Labelled>]> = rows.map(of_row).collect::<Vec<_>>().into();
        // One after another, in f64: a batch of long rows has many terms of one sign.
        let of_row = |(row, of): (usize, &Option<Labelled>)| {
            let of = (*of)?;
            let chosen = logits[row * classes + of.label];
            let [largest, log_sum] = of.log_sum_exp;
            Some(f64::from(of.weight * (log_sum - (chosen - largest))))
        };
        let total: f64 = rows.iter().enumerate().filter_map(of_row).sum();
        (tensor(vec![total as f32], [1]), rows)
    }

    fn fused_cross_entropy_backward(
        logits: FlexTensor,
        rows: &[Option<Labelled>],
        gradient: FlexTensor,
    ) -> FlexTensor {
        let (logits, gradient) = (contiguous(logits), contiguous(gradient));
        let [count, classes] = dims(&logits);
        let factor = slice(&gradient)[0];
        let mut out = vec![0.0; count * classes];
        let elements = (block(classes) * classes).max(1);
        let blocks = out
            .par_chunks_mut(elements)
            .zip(slice(&logits).par_chunks(elements));
        let blocks = blocks.zip(rows.par_chunks(block(classes)));
        blocks.for_each(|((out, logits), rows)| {
            let width = classes.max(1);
            let pairs = out.chunks_exact_mut(width).zip(logits.chunks_exact(width));
            for ((out, row), of) in pairs.zip(rows) {
                let Some(of) = of else { continue };
                let factor = factor * of.weight;
                let log_sum_exp = of.log_sum_exp;
                simd::run(Softmax {
                    row,
                    log_sum_exp,
                    factor,
                    out,
                });
                out[of.label] -= factor;
            }
        });
        tensor(out, [count, classes])
    }
}

#[derive(Debug)]
struct CrossEntropyNode;

impl<B: CrossEntropyBackward> Backward<B, 1> for CrossEntropyNode {
    type State = (NodeId, Arc<[Option<Labelled>]>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (gradient, parents) = (grads.consume::<B>(&ops.node), parents(&ops));
        let (logits, rows) = ops.state;
        let logits = checkpointer.retrieve_node_output(logits);
        let found = B::fused_cross_entropy_backward(logits, &rows, gradient);
        register::<B, 1>(grads, parents, [Some(found)]);
    }
}

impl<B: CrossEntropyBackward, C: CheckpointStrategy> CrossEntropy for Autodiff<B, C> {
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weights: FloatTensor<Self>,
        ignored: Option<i64>,
    ) -> FloatTensor<Self> {
        let weights = weights.into_primitive();
        let prepared = CrossEntropyNode.prepare::<C>([logits.node()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let kept = node.checkpoint(&logits);
                let logits = logits.into_primitive();
                let (loss, rows) = B::with_rows(logits, labels, weights, ignored);
                node.finish((kept, rows), loss)
            }
            OpsKind::UnTracked(node) => {
                let logits = logits.into_primitive();
                node.finish(B::fused_cross_entropy(logits, labels, weights, ignored))
            }
        }
    }
}
