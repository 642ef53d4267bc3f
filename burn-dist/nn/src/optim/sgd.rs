//! Stochastic gradient descent.

use crate::flex::{contiguous, from_flex, into_flex, is_plain, owned, same_shape, slice};
use crate::rows::block;
use crate::simd::{self, Kernel, MulAdd};
use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer, RecordState};
use burn::tensor::{Device, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// The options of [`Sgd`]; the defaults are plain gradient descent.
#[derive(Config, Debug)]
pub struct SgdConfig {
    /// How much of the velocity a step keeps; 0 keeps no state.
    #[config(default = 0.0)]
    pub momentum: f64,
    /// How much less than all of a gradient goes into the velocity, but for the first.
    #[config(default = 0.0)]
    pub dampening: f64,
    /// Look ahead by the momentum (Sutskever et al., 2013, <https://proceedings.mlr.press/v28/sutskever13.html>).
    #[config(default = false)]
    pub nesterov: bool,
    /// An L2 penalty: how much of a weight is added to its gradient.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// Clipping of each parameter's gradient.
    pub grad_clipping: Option<GradientClippingConfig>,
}

/// Stochastic gradient descent with momentum, in one pass over a parameter and its velocity.
///
/// The options are PyTorch's. The state is recorded under the names of [`burn::optim::Sgd`]'s.
#[derive(Clone, Debug)]
pub struct Sgd {
    options: SgdConfig,
}

/// The state of [`Sgd`].
#[derive(RecordState, Clone, Debug)]
pub struct SgdState<const D: usize> {
    /// None without momentum.
    pub momentum: Option<SgdMomentum<D>>,
}

/// The momentum of [`Sgd`].
#[derive(RecordState, Clone, Debug)]
pub struct SgdMomentum<const D: usize> {
    /// The mean of gradients that steps follow.
    pub velocity: Tensor<D>,
}

impl SgdConfig {
    /// The optimizer for tensors, as [`ModuleOptimizer::with_group`] takes it.
    pub fn build(&self) -> Sgd {
        Sgd {
            options: self.clone(),
        }
    }

    /// The optimizer for a module.
    pub fn init(&self) -> ModuleOptimizer {
        let optimizer = ModuleOptimizer::from(self.build());
        match &self.grad_clipping {
            Some(clipping) => optimizer.with_grad_clipping(clipping.init()),
            None => optimizer,
        }
    }
}

struct Step<'a> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    rate: f32,
    penalty: f32,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        for (p, &gradient) in self.parameter.iter_mut().zip(self.gradient) {
            let gradient = M::mul_add(self.penalty, *p, gradient);
            *p = M::mul_add(-self.rate, gradient, *p);
        }
    }
}

struct MomentumStep<'a> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    velocity: &'a mut [f32],
    rate: f32,
    penalty: f32,
    momentum: f32,
    /// What of a gradient goes into the velocity.
    share: f32,
    nesterov: bool,
}

impl Kernel for MomentumStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let values = self.parameter.iter_mut().zip(self.gradient);
        for ((p, &gradient), velocity) in values.zip(self.velocity) {
            let gradient = M::mul_add(self.penalty, *p, gradient);
            *velocity = M::mul_add(self.momentum, *velocity, self.share * gradient);
            let ahead = M::mul_add(self.momentum, *velocity, gradient);
            let direction = if self.nesterov { ahead } else { *velocity };
            *p = M::mul_add(-self.rate, direction, *p);
        }
    }
}

impl Sgd {
    /// A step by Burn's operations.
    fn composed<const D: usize>(
        &self,
        rate: f64,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        velocity: Option<Tensor<D>>,
    ) -> (Tensor<D>, Option<Tensor<D>>) {
        let options = &self.options;
        let gradient = if options.weight_decay == 0.0 {
            gradient
        } else {
            tensor.clone().mul_scalar(options.weight_decay) + gradient
        };
        if options.momentum == 0.0 {
            return (tensor - gradient.mul_scalar(rate), None);
        }
        let velocity = match velocity {
            Some(velocity) => {
                let share = gradient.clone().mul_scalar(1.0 - options.dampening);
                velocity.mul_scalar(options.momentum) + share
            }
            None => gradient.clone(),
        };
        let direction = if options.nesterov {
            velocity.clone().mul_scalar(options.momentum) + gradient
        } else {
            velocity.clone()
        };
        (tensor - direction.mul_scalar(rate), Some(velocity))
    }

    /// A step without momentum.
    fn fused(&self, rate: f64, tensor: FlexTensor, gradient: &FlexTensor) -> FlexTensor {
        let mut tensor = owned(tensor);
        let elements = block(2);
        let parameters = tensor.storage_mut().par_chunks_mut(elements);
        let blocks = parameters.zip(slice(gradient).par_chunks(elements));
        blocks.for_each(|(parameter, gradient)| {
            simd::run(Step {
                parameter,
                gradient,
                rate: rate as f32,
                penalty: self.options.weight_decay as f32,
            });
        });
        tensor
    }

    /// A step with momentum; without a velocity it is the first.
    fn fused_with_momentum(
        &self,
        rate: f64,
        tensor: FlexTensor,
        gradient: &FlexTensor,
        velocity: Option<FlexTensor>,
    ) -> [FlexTensor; 2] {
        let options = &self.options;
        // The first velocity is the first gradient, whatever the dampening.
        let share = if velocity.is_some() {
            1.0 - options.dampening
        } else {
            1.0
        };
        let velocity = velocity.unwrap_or_else(|| {
            FlexTensor::zeros(gradient.layout().shape().clone(), gradient.dtype())
        });
        let [mut tensor, mut velocity] = [tensor, velocity].map(owned);
        let elements = block(3);
        let parameters = tensor.storage_mut().par_chunks_mut(elements);
        let blocks = parameters.zip(slice(gradient).par_chunks(elements));
        let blocks = blocks.zip(velocity.storage_mut().par_chunks_mut(elements));
        blocks.for_each(|((parameter, gradient), velocity)| {
            simd::run(MomentumStep {
                parameter,
                gradient,
                velocity,
                rate: rate as f32,
                penalty: options.weight_decay as f32,
                momentum: options.momentum as f32,
                share: share as f32,
                nesterov: options.nesterov,
            });
        });
        [tensor, velocity]
    }
}

impl Optimizer for Sgd {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<SgdState<D>>,
    ) -> (Tensor<D>, Option<SgdState<D>>) {
        let velocity = state.and_then(|state| state.momentum);
        let velocity = velocity.map(|momentum| momentum.velocity);
        let others = [
            ("gradient", Some(&grad)),
            ("velocity", velocity.as_ref()),
            ("", None),
        ];
        same_shape(&tensor, others);
        let inputs = [Some(&tensor), Some(&grad), velocity.as_ref()];
        let (tensor, velocity) = if !inputs.into_iter().flatten().all(is_plain) {
            self.composed(lr, tensor, grad, velocity)
        } else {
            let (tensor, grad) = (into_flex(tensor), contiguous(into_flex(grad)));
            if self.options.momentum == 0.0 {
                (from_flex(self.fused(lr, tensor, &grad)), None)
            } else {
                let velocity = velocity.map(into_flex);
                let found = self.fused_with_momentum(lr, tensor, &grad, velocity);
                let [tensor, velocity] = found.map(from_flex);
                (tensor, Some(velocity))
            }
        };
        let momentum = velocity.map(|velocity| SgdMomentum { velocity });
        (tensor, Some(SgdState { momentum }))
    }

    fn to_device<const D: usize>(state: SgdState<D>, device: &Device) -> SgdState<D> {
        let momentum = state.momentum.map(|momentum| SgdMomentum {
            velocity: momentum.velocity.to_device(device),
        });
        SgdState { momentum }
    }
}
