//! Layer normalisation.

use super::tape::{parents, register};
use crate::flex::{contiguous, dims, is_fused, slice, tensor};
use crate::rows::{block, sum_over_blocks, summed_block};
use crate::simd::{self, Kernel, MulAdd, sum};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, module};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::sync::Arc;

/// Each row less its mean, divided by its standard deviation, times `gamma`, plus `beta`.
///
/// - `x` and output: any shape; a row is the last dimension.
/// - `gamma` and `beta`: `[row]`.
/// - `epsilon`: added to the variance, which is that of the population.
///
/// About 0.6 ns an element forward and 1.3 backward on one core with AVX2. Ba et al., 2016,
/// <https://arxiv.org/abs/1607.06450>.
///
/// # Panics
///
/// If `gamma` or `beta` is not as long as a row.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_nn::functional::layer_norm;
///
/// let device = Device::flex();
/// let x = Tensor::<2>::from_data([[1.0, 3.0], [5.0, 5.0]], &device);
/// let (gamma, beta) = (Tensor::ones([2], &device), Tensor::zeros([2], &device));
/// let y = layer_norm(x, gamma, beta, 0.0);
/// assert_eq!(y.narrow(0, 0, 1).into_data().try_to_vec::<f32>().unwrap(), [-1.0, 1.0]);
/// ```
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let width = x.dims()[D - 1];
    assert_eq!([width], gamma.dims(), "gamma's length is that of a row");
    assert_eq!([width], beta.dims(), "beta's length is that of a row");
    if !is_fused(&x) || !is_fused(&gamma) || !is_fused(&beta) {
        return module::layer_norm(x, gamma, Some(beta), epsilon);
    }
    Tensor::from_dispatch(<Dispatch as LayerNorm>::fused_layer_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon,
    ))
}

/// A row's mean, and one over its standard deviation.
type Moments = [f32; 2];

struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
    moments: &'a mut [Moments],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let n = self.gamma.len();
        let (gamma, beta) = (self.gamma, &self.beta[..n]);
        let rows = self.x.chunks_exact(n).zip(self.y.chunks_exact_mut(n));
        for ((x, y), moments) in rows.zip(self.moments) {
            let mean = sum(n, |i, sum| sum + x[i]) / n as f32;
            let squares = sum(n, |i, sum| {
                let difference = x[i] - mean;
                M::mul_add(difference, difference, sum)
            });
            let scale = 1.0 / (squares / n as f32 + self.epsilon).sqrt();
            *moments = [mean, scale];
            for i in 0..n {
                y[i] = M::mul_add((x[i] - mean) * scale, gamma[i], beta[i]);
            }
        }
    }
}

struct Back<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    moments: &'a [Moments],
    gradient: &'a [f32],
    x_gradient: &'a mut [f32],
    /// Added to.
    gamma_gradient: &'a mut [f32],
    /// Added to.
    beta_gradient: &'a mut [f32],
}

impl Kernel for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let n = self.gamma.len();
        let gamma = self.gamma;
        let gamma_gradient = &mut self.gamma_gradient[..n];
        let beta_gradient = &mut self.beta_gradient[..n];
        let rows = self.x.chunks_exact(n).zip(self.gradient.chunks_exact(n));
        let rows = rows.zip(self.x_gradient.chunks_exact_mut(n));
        for (((x, gradient), x_gradient), &[mean, scale]) in rows.zip(self.moments) {
            // The means over the row of the normalised element's gradient, and of that times the element.
            let along = sum(n, |i, sum| M::mul_add(gradient[i], gamma[i], sum)) / n as f32;
            let across = sum(n, |i, sum| {
                M::mul_add(gradient[i] * gamma[i], (x[i] - mean) * scale, sum)
            });
            let across = across / n as f32;
            for i in 0..n {
                let normalised = (x[i] - mean) * scale;
                let inner = M::mul_add(normalised, across, along);
                x_gradient[i] = scale * (gradient[i] * gamma[i] - inner);
                gamma_gradient[i] = M::mul_add(gradient[i], normalised, gamma_gradient[i]);
                beta_gradient[i] += gradient[i];
            }
        }
    }
}

#[backend_extension(Flex, Autodiff)]
trait LayerNorm: Backend {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
}

trait LayerNormBackward: LayerNorm {
    fn with_moments(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, Arc<[Moments]>);

    /// The gradients of `x`, `gamma` and `beta`.
    fn fused_layer_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        moments: &[Moments],
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}

impl LayerNorm for Flex {
    fn fused_layer_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f64,
    ) -> FlexTensor {
        Self::with_moments(x, gamma, beta, epsilon).0
    }
}

impl LayerNormBackward for Flex {
    fn with_moments(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, Arc<[Moments]>) {
        let (x, gamma, beta) = (contiguous(x), contiguous(gamma), contiguous(beta));
        let [width] = dims(&gamma);
        let mut y = vec![0.0; slice(&x).len()];
        let mut moments = vec![[0.0; 2]; y.len().checked_div(width).unwrap_or(0)];
        let rows = block(width);
        let elements = (rows * width).max(1);
        let blocks = y
            .par_chunks_mut(elements)
            .zip(slice(&x).par_chunks(elements));
        let blocks = blocks.zip(moments.par_chunks_mut(rows));
        blocks.for_each(|((y, x), moments)| {
            simd::run(Forward {
                x,
                gamma: slice(&gamma),
                beta: slice(&beta),
                epsilon: epsilon as f32,
                y,
                moments,
            });
        });
        (tensor(y, x.layout().shape().clone()), moments.into())
    }

    fn fused_layer_norm_backward(
        x: FlexTensor,
        gamma: FlexTensor,
        moments: &[Moments],
        gradient: FlexTensor,
    ) -> [FlexTensor; 3] {
        let (x, gamma, gradient) = (contiguous(x), contiguous(gamma), contiguous(gradient));
        let [width] = dims(&gamma);
        let mut x_gradient = vec![0.0; slice(&x).len()];
        let rows = summed_block(moments.len(), width).max(1);
        let elements = (rows * width).max(1);
        let inputs = slice(&x).par_chunks(elements);
        let blocks = inputs.zip(slice(&gradient).par_chunks(elements));
        let blocks = blocks.zip(x_gradient.par_chunks_mut(elements));
        let blocks = blocks.zip(moments.par_chunks(rows));
        let [gamma_gradient, beta_gradient] = sum_over_blocks(blocks, width, |block, sums| {
            let (((x, gradient), x_gradient), moments) = block;
            let [gamma_gradient, beta_gradient] = sums;
            simd::run(Back {
                x,
                gamma: slice(&gamma),
                moments,
                gradient,
                x_gradient,
                gamma_gradient,
                beta_gradient,
            });
        });
        [
            tensor(x_gradient, x.layout().shape().clone()),
            tensor(gamma_gradient, [width]),
            tensor(beta_gradient, [width]),
        ]
    }
}

#[derive(Debug)]
struct LayerNormNode;

impl<B: LayerNormBackward> Backward<B, 3> for LayerNormNode {
    type State = ([NodeId; 2], Arc<[Moments]>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (gradient, parents) = (grads.consume::<B>(&ops.node), parents(&ops));
        let (nodes, moments) = ops.state;
        let [x, gamma] = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let found = B::fused_layer_norm_backward(x, gamma, &moments, gradient);
        register::<B, 3>(grads, parents, found.map(Some));
    }
}

impl<B: LayerNormBackward, C: CheckpointStrategy> LayerNorm for Autodiff<B, C> {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let prepared = LayerNormNode.prepare::<C>([x.node(), gamma.node(), beta.node()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let nodes = [node.checkpoint(&x), node.checkpoint(&gamma)];
                let inputs = [x, gamma, beta].map(|input| input.into_primitive());
                let [x, gamma, beta] = inputs;
                let (y, moments) = B::with_moments(x, gamma, beta, epsilon);
                node.finish((nodes, moments), y)
            }
            OpsKind::UnTracked(node) => {
                let [x, gamma, beta] = [x, gamma, beta].map(|input| input.into_primitive());
                node.finish(B::fused_layer_norm(x, gamma, beta, epsilon))
            }
        }
    }
}
