//! AdamW.

use super::moments::{self, Decay, Options};
use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{AdamWState, LearningRate, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor};

/// The options of [`AdamW`].
#[derive(Config, Debug)]
pub struct AdamWConfig {
    /// How much of the mean of gradients a step keeps.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// How much of the mean of squared gradients a step keeps.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to the root of the second moment.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// How much a weight decays in a step, times the learning rate.
    #[config(default = 1e-4)]
    pub weight_decay: f64,
    /// Let a weight decay only where the step moves it towards 0 anyway; computed by Burn's AdamW.
    #[config(default = false)]
    pub cautious_weight_decay: bool,
    /// Divide by the root of the largest second moment so far; computed by Burn's AdamW.
    #[config(default = false)]
    pub amsgrad: bool,
    /// Clipping of each parameter's gradient.
    pub grad_clipping: Option<GradientClippingConfig>,
}

/// Adam with decoupled weight decay, in one pass over a parameter and its moments.
///
/// The state and its record are those of [`burn::optim::AdamW`], whose defaults the options have. Loshchilov and
/// Hutter, 2019, <https://arxiv.org/abs/1711.05101>.
#[derive(Clone, Debug)]
pub struct AdamW {
    options: AdamWConfig,
}

impl AdamWConfig {
    /// The optimizer for tensors, as [`ModuleOptimizer::with_group`] takes it.
    pub fn build(&self) -> AdamW {
        AdamW {
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

impl AdamW {
    /// Burn's optimizer of the same options.
    fn burns(&self) -> burn::optim::AdamW {
        let options = &self.options;
        let config = burn::optim::AdamWConfig::new()
            .with_beta_1(options.beta_1 as f32)
            .with_beta_2(options.beta_2 as f32)
            .with_epsilon(options.epsilon as f32)
            .with_amsgrad(options.amsgrad);
        config
            .with_weight_decay(options.weight_decay as f32)
            .with_cautious_weight_decay(options.cautious_weight_decay)
            .build()
    }
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let options = &self.options;
        if options.amsgrad || options.cautious_weight_decay {
            return self.burns().step(lr, tensor, grad, state);
        }
        let options = Options {
            rate: lr,
            beta_1: options.beta_1,
            beta_2: options.beta_2,
            epsilon: options.epsilon,
            decay: Decay::Decoupled(options.weight_decay),
        };
        let momentum = state.map(|state| state.momentum);
        let (tensor, momentum) = moments::step(&options, tensor, grad, momentum);
        (tensor, Some(AdamWState::new(momentum)))
    }

    fn to_device<const D: usize>(mut state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}
