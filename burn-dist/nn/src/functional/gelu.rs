//! The Gaussian error linear unit.

use super::tape::{parents, register};
use crate::flex::{contiguous, is_fused, owned, slice, tensor};
use crate::rows::block;
use crate::simd::{self, Kernel, MulAdd, exp, normal};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, activation};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// x Φ(x), where Φ is the standard normal distribution's cumulative distribution function.
///
/// Output: the shape of `x`. The relative error is less than 5e-6, in the tail too, where Burn's `1 + erf`
/// loses all digits. About 1 ns an element forward and 1.5 backward on one core with AVX2.
///
/// Hendrycks and Gimpel, 2016, <https://arxiv.org/abs/1606.08415>.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_nn::functional::gelu;
///
/// let x = Tensor::<1>::from_data([-1.0, 0.0, 2.0], &Device::flex());
/// let y: Vec<f32> = gelu(x).into_data().try_to_vec().unwrap();
/// assert!((y[0] + 0.158655).abs() < 1e-6 && y[1] == 0.0 && (y[2] - 1.954500).abs() < 1e-6);
/// ```
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !is_fused(&x) {
        return activation::gelu(x);
    }
    Tensor::from_dispatch(<Dispatch as Gelu>::fused_gelu(x.into_dispatch(), Form::Erf))
}

/// The approximation of [`gelu`] by a hyperbolic tangent, as GPT-2 has it.
///
/// x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³))); PyTorch's `F.gelu(approximate="tanh")`.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_nn::functional::gelu_approximate;
///
/// let x = Tensor::<1>::from_data([2.0], &Device::flex());
/// assert!((gelu_approximate(x).into_scalar::<f32>() - 1.954598).abs() < 1e-6);
/// ```
pub fn gelu_approximate<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !is_fused(&x) {
        return activation::gelu_approximate(x);
    }
    Tensor::from_dispatch(<Dispatch as Gelu>::fused_gelu(
        x.into_dispatch(),
        Form::Tanh,
    ))
}

/// How Φ is computed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Erf,
    Tanh,
}

/// The activation at `x` and its derivative.
#[inline(always)]
fn of<M: MulAdd, const TANH: bool>(x: f32) -> [f32; 2] {
    if !TANH {
        let (below, density) = normal::<M>(x);
        return [x * below, M::mul_add(x, density, below)];
    }
    // (1 + tanh u) / 2 = 1 / (1 + exp(-2u)): of the same accuracy on both sides of 0.
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    const CUBIC: f32 = 0.044_715;
    // Beyond, the function is x or 0 and its slope 1 or 0; the square of what lies far beyond is infinite.
    let near = x.clamp(-10.0, 10.0);
    let square = near * near;
    let twice_u = TWO_SQRT_2_OVER_PI * M::mul_add(CUBIC * square, near, near);
    let e = exp::<M>(-twice_u);
    let half = if x < -10.0 { 0.0 } else { 1.0 / (1.0 + e) };
    // The derivative of twice_u, times half (1 - half).
    let slope = TWO_SQRT_2_OVER_PI * M::mul_add(3.0 * CUBIC, square, 1.0);
    [
        x * half,
        M::mul_add(near * slope, half * (1.0 - half), half),
    ]
}

struct Forward<'a, const TANH: bool> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<const TANH: bool> Kernel for Forward<'_, TANH> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = of::<M, TANH>(x)[0];
        }
    }
}

struct Back<'a, const TANH: bool> {
    x: &'a [f32],
    /// The gradient of the activation, and then of `x`.
    gradient: &'a mut [f32],
}

impl<const TANH: bool> Kernel for Back<'_, TANH> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        for (gradient, &x) in self.gradient.iter_mut().zip(self.x) {
            *gradient *= of::<M, TANH>(x)[1];
        }
    }
}

struct Both<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    gradient: &'a mut [f32],
}

impl Kernel for Both<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let outputs = self.y.iter_mut().zip(self.gradient);
        for ((y, gradient), &x) in outputs.zip(self.x) {
            let [value, slope] = of::<M, false>(x);
            *y = value;
            *gradient *= slope;
        }
    }
}

/// The activation of `x`, to `y`.
pub(super) fn forward(x: &[f32], y: &mut [f32], form: Form) {
    let block = block(1);
    let blocks = y.par_chunks_mut(block).zip(x.par_chunks(block));
    blocks.for_each(|(y, x)| match form {
        Form::Erf => simd::run(Forward::<false> { x, y }),
        Form::Tanh => simd::run(Forward::<true> { x, y }),
    });
}

/// Turns the gradient of the activation into that of `x`.
fn backward(x: &[f32], gradient: &mut [f32], form: Form) {
    let block = block(1);
    let blocks = gradient.par_chunks_mut(block).zip(x.par_chunks(block));
    blocks.for_each(|(gradient, x)| match form {
        Form::Erf => simd::run(Back::<false> { x, gradient }),
        Form::Tanh => simd::run(Back::<true> { x, gradient }),
    });
}

/// The activation of `x` by the error function, to `y`, and its gradient turned into that of `x`: one pass
/// for backward passes that need both.
pub(super) fn forward_and_backward(x: &[f32], y: &mut [f32], gradient: &mut [f32]) {
    let block = block(1);
    let outputs = y.par_chunks_mut(block).zip(gradient.par_chunks_mut(block));
    let blocks = outputs.zip(x.par_chunks(block));
    blocks.for_each(|((y, gradient), x)| simd::run(Both { x, y, gradient }));
}

#[backend_extension(Flex, Autodiff)]
trait Gelu: Backend {
    fn fused_gelu(x: FloatTensor<Self>, form: Form) -> FloatTensor<Self>;
}

trait GeluBackward: Gelu {
    fn fused_gelu_backward(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        form: Form,
    ) -> FloatTensor<Self>;
}

impl Gelu for Flex {
    fn fused_gelu(x: FlexTensor, form: Form) -> FlexTensor {
        let x = contiguous(x);
        let mut y = vec![0.0; slice(&x).len()];
        forward(slice(&x), &mut y, form);
        tensor(y, x.layout().shape().clone())
    }
}

impl GeluBackward for Flex {
    fn fused_gelu_backward(x: FlexTensor, gradient: FlexTensor, form: Form) -> FlexTensor {
        let (x, mut gradient) = (contiguous(x), owned(gradient));
        backward(slice(&x), gradient.storage_mut(), form);
        gradient
    }
}

#[derive(Debug)]
struct GeluNode;

impl<B: GeluBackward> Backward<B, 1> for GeluNode {
    type State = (NodeId, Form);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (gradient, parents) = (grads.consume::<B>(&ops.node), parents(&ops));
        let (x, form) = ops.state;
        let x = checkpointer.retrieve_node_output(x);
        let found = B::fused_gelu_backward(x, gradient, form);
        register::<B, 1>(grads, parents, [Some(found)]);
    }
}

impl<B: GeluBackward, C: CheckpointStrategy> Gelu for Autodiff<B, C> {
    fn fused_gelu(x: FloatTensor<Self>, form: Form) -> FloatTensor<Self> {
        let prepared = GeluNode.prepare::<C>([x.node()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let state = (node.checkpoint(&x), form);
                node.finish(state, B::fused_gelu(x.into_primitive(), form))
            }
            OpsKind::UnTracked(node) => node.finish(B::fused_gelu(x.into_primitive(), form)),
        }
    }
}
