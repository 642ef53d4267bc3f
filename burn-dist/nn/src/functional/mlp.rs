//! A transformer's multilayer perceptron.

use super::gelu::{self, Form, gelu};
use super::tape::{parents, register};
use crate::flex::{contiguous, dims, is_fused, slice, tensor};
use crate::matmul::{Matrix, Write, matmul};
use crate::rows::{block, sum_of_rows};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, module};
use burn_flex::FlexTensor;

/// The parameters of [`mlp`], as Burn's linear layers have them.
#[derive(Debug, Clone)]
pub struct MlpWeights {
    /// `[width, hidden]`
    pub up: Tensor<2>,
    /// `[hidden]`
    pub up_bias: Tensor<1>,
    /// `[hidden, output]`
    pub down: Tensor<2>,
    /// `[output]`
    pub down_bias: Tensor<1>,
}

/// `gelu(x up + up_bias) down + down_bias`.
///
/// - `x`: `[rows, width]`.
/// - output: `[rows, output]`.
///
/// Of the two hidden layers, before and after the activation, only the first is kept for backward, which
/// computes the second again: half the memory, at some 2 % of the time. Gradients of weights that take none
/// are not computed.
///
/// # Panics
///
/// If the sizes do not fit each other.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_nn::functional::{MlpWeights, mlp};
///
/// let device = Device::flex();
/// let weights = MlpWeights {
///     up: Tensor::ones([2, 4], &device),
///     up_bias: Tensor::zeros([4], &device),
///     down: Tensor::ones([4, 3], &device),
///     down_bias: Tensor::ones([3], &device),
/// };
/// let y = mlp(Tensor::zeros([5, 2], &device), weights);
/// assert_eq!(y.into_data(), Tensor::<2>::ones([5, 3], &device).into_data());
/// ```
pub fn mlp(x: Tensor<2>, weights: MlpWeights) -> Tensor<2> {
    let MlpWeights {
        up,
        up_bias,
        down,
        down_bias,
    } = weights;
    let ([_, width], [up_in, hidden]) = (x.dims(), up.dims());
    let [down_in, output] = down.dims();
    assert_eq!(width, up_in, "rows of `up`");
    assert_eq!(hidden, down_in, "rows of `down`");
    assert_eq!([hidden], up_bias.dims(), "elements of `up_bias`");
    assert_eq!([output], down_bias.dims(), "elements of `down_bias`");
    let is_fused = [&x, &up, &down].into_iter().all(is_fused)
        && [&up_bias, &down_bias].into_iter().all(self::is_fused);
    if !is_fused {
        let hidden = gelu(module::linear(x, up, Some(up_bias)));
        return module::linear(hidden, down, Some(down_bias));
    }
    Tensor::from_dispatch(<Dispatch as Mlp>::fused_mlp(
        x.into_dispatch(),
        up.into_dispatch(),
        up_bias.into_dispatch(),
        down.into_dispatch(),
        down_bias.into_dispatch(),
    ))
}

/// Rows times a matrix, plus a bias.
fn linear(x: &[f32], width: usize, weight: &[f32], bias: &[f32], out: &mut [f32]) {
    let columns = bias.len();
    if columns == 0 {
        return;
    }
    // The bias is the value that the products are added to.
    for row in out.chunks_exact_mut(columns) {
        row.copy_from_slice(bias);
    }
    let x = Matrix::new(x, out.len() / columns, width);
    let weight = Matrix::new(weight, width, columns);
    matmul(out, columns, Write::Add, x, weight);
}

#[backend_extension(Flex, Autodiff)]
trait Mlp: Backend {
    fn fused_mlp(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

trait MlpBackward: Mlp {
    /// The output, and the hidden layer before the activation.
    fn with_hidden(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// The gradients of the inputs in their order, of which only those that are `wanted` are computed.
    fn fused_mlp_backward(
        inputs: MlpInputs<Self>,
        gradient: FloatTensor<Self>,
        wanted: [bool; 5],
    ) -> [Option<FloatTensor<Self>>; 5];
}

/// What backward reads.
struct MlpInputs<B: Backend> {
    x: FloatTensor<B>,
    up: FloatTensor<B>,
    down: FloatTensor<B>,
    hidden: FloatTensor<B>,
}

impl Mlp for Flex {
    fn fused_mlp(
        x: FlexTensor,
        up: FlexTensor,
        up_bias: FlexTensor,
        down: FlexTensor,
        down_bias: FlexTensor,
    ) -> FlexTensor {
        let [y, _] = Self::with_hidden(x, up, up_bias, down, down_bias);
        y
    }
}

impl MlpBackward for Flex {
    fn with_hidden(
        x: FlexTensor,
        up: FlexTensor,
        up_bias: FlexTensor,
        down: FlexTensor,
        down_bias: FlexTensor,
    ) -> [FlexTensor; 2] {
        let [x, up, up_bias, down, down_bias] = [x, up, up_bias, down, down_bias].map(contiguous);
        let ([rows, width], [hidden, columns]) = (dims(&x), dims(&down));
        let mut before = vec![0.0; rows * hidden];
        let mut y = vec![0.0; rows * columns];
        // Both layers block by block, so that the activation is in a cache when it is multiplied.
        let rows_of_block = rows_of_block(hidden);
        let mut after = vec![0.0; rows_of_block.min(rows) * hidden];
        for start in (0..rows).step_by(rows_of_block) {
            let end = rows.min(start + rows_of_block);
            let before = &mut before[start * hidden..end * hidden];
            let after = &mut after[..before.len()];
            let x = &slice(&x)[start * width..end * width];
            linear(x, width, slice(&up), slice(&up_bias), before);
            gelu::forward(before, after, Form::Erf);
            let y = &mut y[start * columns..end * columns];
            linear(after, hidden, slice(&down), slice(&down_bias), y);
        }
        [tensor(y, [rows, columns]), tensor(before, [rows, hidden])]
    }

    fn fused_mlp_backward(
        inputs: MlpInputs<Self>,
        gradient: FlexTensor,
        wanted: [bool; 5],
    ) -> [Option<FlexTensor>; 5] {
        let [x, up, down] = [inputs.x, inputs.up, inputs.down].map(contiguous);
        let (before, gradient) = (inputs.hidden, contiguous(gradient));
        let ([rows, width], [hidden, columns]) = (dims(&x), dims(&down));
        let of_y = Matrix::new(slice(&gradient), rows, columns);

        // The gradient of the hidden layer after the activation, and then of that before it.
        let mut of_hidden = vec![0.0; rows * hidden];
        let down = Matrix::new(slice(&down), hidden, columns);
        matmul(
            &mut of_hidden,
            hidden,
            Write::Replace,
            of_y,
            down.transposed(),
        );
        let mut after = vec![0.0; rows * hidden];
        gelu::forward_and_backward(slice(&before), &mut after, &mut of_hidden);
        drop(before);

        let [of_x, of_up, of_up_bias, of_down, of_down_bias] = wanted;
        let product = |[m, n]: [usize; 2], a: Matrix, b: Matrix| {
            let mut out = vec![0.0; m * n];
            matmul(&mut out, n, Write::Replace, a, b);
            tensor(out, [m, n])
        };
        let down_gradient = of_down.then(|| {
            let after = Matrix::new(&after, rows, hidden);
            product([hidden, columns], after.transposed(), of_y)
        });
        drop(after);
        let hidden_matrix = Matrix::new(&of_hidden, rows, hidden);
        let x_matrix = Matrix::new(slice(&x), rows, width);
        let up = Matrix::new(slice(&up), width, hidden);
        [
            of_x.then(|| product([rows, width], hidden_matrix, up.transposed())),
            of_up.then(|| product([width, hidden], x_matrix.transposed(), hidden_matrix)),
            of_up_bias.then(|| tensor(sum_of_rows(&of_hidden, hidden), [hidden])),
            down_gradient,
            of_down_bias.then(|| tensor(sum_of_rows(slice(&gradient), columns), [columns])),
        ]
    }
}

/// Rows of the blocks that forward goes through: several of the activation's, so that threads share one.
fn rows_of_block(hidden: usize) -> usize {
    8 * block(hidden)
}

#[derive(Debug)]
struct MlpNode;

impl<B: MlpBackward> Backward<B, 5> for MlpNode {
    type State = ([NodeId; 3], FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (gradient, parents) = (grads.consume::<B>(&ops.node), parents(&ops));
        let (nodes, hidden) = ops.state;
        let [x, up, down] = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let inputs = MlpInputs {
            x,
            up,
            down,
            hidden,
        };
        let wanted = parents.map(|parent| parent.is_some());
        let found = B::fused_mlp_backward(inputs, gradient, wanted);
        register::<B, 5>(grads, parents, found);
    }
}

impl<B: MlpBackward, C: CheckpointStrategy> Mlp for Autodiff<B, C> {
    fn fused_mlp(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [&x, &up, &up_bias, &down, &down_bias].map(|input| input.node());
        let prepared = MlpNode.prepare::<C>(nodes).compute_bound().stateful();
        match prepared {
            OpsKind::Tracked(mut node) => {
                let nodes = [&x, &up, &down].map(|input| node.checkpoint(input));
                let [x, up, up_bias, down, down_bias] =
                    [x, up, up_bias, down, down_bias].map(|input| input.into_primitive());
                let [y, hidden] = B::with_hidden(x, up, up_bias, down, down_bias);
                node.finish((nodes, hidden), y)
            }
            OpsKind::UnTracked(node) => {
                let [x, up, up_bias, down, down_bias] =
                    [x, up, up_bias, down, down_bias].map(|input| input.into_primitive());
                node.finish(B::fused_mlp(x, up, up_bias, down, down_bias))
            }
        }
    }
}
