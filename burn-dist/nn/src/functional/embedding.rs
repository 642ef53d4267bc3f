//! Rows of a table.

use super::tape::{parents, register};
use crate::flex::{contiguous, dims, integers, is_fused, slice, tensor};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Int, Tensor};
use burn_flex::FlexTensor;

/// The rows of `table` that `ids` name.
///
/// - `table`: `[rows, width]`; may be a view into a larger buffer, which is not copied.
/// - `ids`: `[batch, tokens]`.
/// - output: `[batch, tokens, width]`.
///
/// The table is not kept for backward. Its gradient has the table's size, and the rows of an id that occurs
/// several times are added in order.
///
/// # Panics
///
/// If an id is not a row of the table; on a GPU, as the device's `select`.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_nn::functional::embedding;
///
/// let device = Device::flex();
/// let table = Tensor::<2>::from_data([[0.0, 1.0], [2.0, 3.0]], &device);
/// let rows = embedding(table, Tensor::<2, Int>::from_data([[1, 0, 1]], &device));
/// assert_eq!(rows.into_data().try_to_vec::<f32>().unwrap(), [2.0, 3.0, 0.0, 1.0, 2.0, 3.0]);
/// ```
pub fn embedding(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let [batch, tokens] = ids.dims();
    let [_, width] = table.dims();
    let ids = ids.reshape([batch * tokens]);
    let rows = if is_fused(&table) {
        let (table, ids) = (table.into_dispatch(), ids.into_dispatch());
        Tensor::<2>::from_dispatch(<Dispatch as Embedding>::fused_embedding(table, ids))
    } else {
        table.select(0, ids)
    };
    rows.reshape([batch, tokens, width])
}

#[backend_extension(Flex, Autodiff)]
trait Embedding: Backend {
    fn fused_embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
}

trait EmbeddingBackward: Embedding {
    /// The gradient of a table of `table` rows and columns.
    fn fused_embedding_backward(
        table: [usize; 2],
        ids: IntTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The ids as places in a table of so many rows.
fn places(ids: FlexTensor, rows: usize) -> Vec<usize> {
    let place = |id: i64| {
        let place = usize::try_from(id).ok().filter(|&place| place < rows);
        assert!(place.is_some(), "id {id} of a table of {rows} rows");
        place.unwrap_or_default()
    };
    integers(ids).into_iter().map(place).collect()
}

impl Embedding for Flex {
    fn fused_embedding(table: FlexTensor, ids: FlexTensor) -> FlexTensor {
        let table = contiguous(table);
        let [rows, width] = dims(&table);
        let ids = places(ids, rows);
        let mut found = Vec::with_capacity(ids.len() * width);
        for id in &ids {
            found.extend_from_slice(&slice(&table)[id * width..][..width]);
        }
        tensor(found, [ids.len(), width])
    }
}

impl EmbeddingBackward for Flex {
    fn fused_embedding_backward(
        [rows, width]: [usize; 2],
        ids: FlexTensor,
        gradient: FlexTensor,
    ) -> FlexTensor {
        let gradient = contiguous(gradient);
        let mut table = vec![0.0; rows * width];
        let gradients = slice(&gradient).chunks_exact(width.max(1));
        for (id, gradient) in places(ids, rows).into_iter().zip(gradients) {
            let row = &mut table[id * width..][..width];
            for (sum, x) in row.iter_mut().zip(gradient) {
                *sum += x;
            }
        }
        tensor(table, [rows, width])
    }
}

#[derive(Debug)]
struct EmbeddingNode;

impl<B: EmbeddingBackward> Backward<B, 1> for EmbeddingNode {
    type State = ([usize; 2], IntTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (gradient, parents) = (grads.consume::<B>(&ops.node), parents(&ops));
        let (table, ids) = ops.state;
        let found = B::fused_embedding_backward(table, ids, gradient);
        register::<B, 1>(grads, parents, [Some(found)]);
    }
}

impl<B: EmbeddingBackward, C: CheckpointStrategy> Embedding for Autodiff<B, C> {
    fn fused_embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let [rows, width] = table.shape().dims();
        let prepared = EmbeddingNode.prepare::<C>([table.node()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(node) => {
                let found = B::fused_embedding(table.into_primitive(), ids.clone());
                node.finish(([rows, width], ids), found)
            }
            OpsKind::UnTracked(node) => {
                node.finish(B::fused_embedding(table.into_primitive(), ids))
            }
        }
    }
}
