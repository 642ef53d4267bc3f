//! Lion.

use crate::flex::{contiguous, from_flex, into_flex, is_plain, owned, same_shape, slice};
use crate::rows::block;
use crate::simd::{self, Kernel, MulAdd};
use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{LearningRate, LionState, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

/// The options of [`Lion`].
#[derive(Config, Debug)]
pub struct LionConfig {
    /// How much of the momentum goes into the direction of a step.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// How much of the momentum a step keeps.
    #[config(default = 0.99)]
    pub beta_2: f64,
    /// How much a weight decays in a step, times the learning rate.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// Clipping of each parameter's gradient.
    pub grad_clipping: Option<GradientClippingConfig>,
}

/// A step by the sign of the momentum, in one pass over a parameter and its momentum.
///
/// The state and its record are those of [`burn::optim::Lion`], whose defaults the options have. Chen et al.,
/// 2023, <https://arxiv.org/abs/2302.06675>.
#[derive(Clone, Debug)]
pub struct Lion {
    options: LionConfig,
}

impl LionConfig {
    /// The optimizer for tensors, as [`ModuleOptimizer::with_group`] takes it.
    pub fn build(&self) -> Lion {
        Lion {
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
    momentum: &'a mut [f32],
    beta_1: f32,
    beta_2: f32,
    rate: f32,
    /// What is left of a weight.
    kept: f32,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let values = self.parameter.iter_mut().zip(self.gradient);
        for ((p, &gradient), momentum) in values.zip(self.momentum) {
            let direction = M::mul_add(self.beta_1, *momentum - gradient, gradient);
            *momentum = M::mul_add(self.beta_2, *momentum - gradient, gradient);
            // 0 and what is no number stay themselves.
            let sign = if direction > 0.0 {
                1.0
            } else if direction < 0.0 {
                -1.0
            } else {
                direction
            };
            *p = M::mul_add(*p, self.kept, -(self.rate * sign));
        }
    }
}

impl Lion {
    /// A step of Burn's operations, in any type and on any device.
    fn composed<const D: usize>(
        &self,
        rate: f64,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<LionState<D>>,
    ) -> (Tensor<D>, Option<LionState<D>>) {
        let LionConfig { beta_1, beta_2, .. } = self.options;
        let momentum = match state {
            Some(state) => state.momentum,
            None => gradient.zeros_like(),
        };
        let share = |beta: f64| gradient.clone().mul_scalar(1.0 - beta);
        let direction = (momentum.clone().mul_scalar(beta_1) + share(beta_1)).sign();
        let momentum = momentum.mul_scalar(beta_2) + share(beta_2);
        let tensor = tensor.mul_scalar(1.0 - rate * self.options.weight_decay);
        let tensor = tensor - direction.mul_scalar(rate);
        (tensor, Some(LionState::new(momentum)))
    }
}

impl Optimizer for Lion {
    type State<const D: usize> = LionState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<LionState<D>>,
    ) -> (Tensor<D>, Option<LionState<D>>) {
        let options = &self.options;
        let momentum = state.as_ref().map(|state| &state.momentum);
        let others = [
            ("gradient", Some(&grad)),
            ("momentum", momentum),
            ("", None),
        ];
        same_shape(&tensor, others);
        if ![Some(&tensor), Some(&grad), momentum]
            .into_iter()
            .flatten()
            .all(is_plain)
        {
            return self.composed(lr, tensor, grad, state);
        }
        let momentum = match state {
            Some(state) => state.momentum,
            None => grad.zeros_like(),
        };
        let grad = contiguous(into_flex(grad));
        let [mut tensor, mut momentum] = [tensor, momentum].map(|x| owned(into_flex(x)));
        let elements = block(3);
        let parameters = tensor.storage_mut().par_chunks_mut(elements);
        let blocks = parameters.zip(slice(&grad).par_chunks(elements));
        let blocks = blocks.zip(momentum.storage_mut().par_chunks_mut(elements));
        blocks.for_each(|((parameter, gradient), momentum)| {
            simd::run(Step {
                parameter,
                gradient,
                momentum,
                beta_1: options.beta_1 as f32,
                beta_2: options.beta_2 as f32,
                rate: lr as f32,
                kept: (1.0 - lr * options.weight_decay) as f32,
            });
        });
        (from_flex(tensor), Some(LionState::new(from_flex(momentum))))
    }

    fn to_device<const D: usize>(mut state: LionState<D>, device: &Device) -> LionState<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}
