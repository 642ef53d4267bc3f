//! Adam.

use super::moments::{self, Decay, Options};
use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdamState, LearningRate, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor};

/// The options of [`Adam`].
#[derive(Config, Debug)]
pub struct AdamConfig {
    /// How much of the mean of gradients a step keeps.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// How much of the mean of squared gradients a step keeps.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to the root of the second moment.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// An L2 penalty: how much of a weight is added to its gradient.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// Divide by the root of the largest second moment so far; computed by Burn's Adam.
    #[config(default = false)]
    pub amsgrad: bool,
    /// Clipping of each parameter's gradient.
    pub grad_clipping: Option<GradientClippingConfig>,
}

/// Adam, in one pass over a parameter and its moments.
///
/// The state and its record are those of [`burn::optim::Adam`], whose defaults the options have. Kingma and Ba,
/// 2015, <https://arxiv.org/abs/1412.6980>.
#[derive(Clone, Debug)]
pub struct Adam {
    options: AdamConfig,
}

impl AdamConfig {
    /// The optimizer for tensors, as [`ModuleOptimizer::with_group`] takes it.
    pub fn build(&self) -> Adam {
        Adam {
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

impl Adam {
    /// Burn's optimizer of the same options.
    fn burns(&self) -> burn::optim::Adam {
        let options = &self.options;
        let config = burn::optim::AdamConfig::new()
            .with_beta_1(options.beta_1 as f32)
            .with_beta_2(options.beta_2 as f32)
            .with_epsilon(options.epsilon as f32)
            .with_amsgrad(options.amsgrad);
        let decay = (options.weight_decay != 0.0).then_some(WeightDecayConfig {
            penalty: options.weight_decay as f32,
        });
        config.with_weight_decay(decay).build()
    }
}

impl Optimizer for Adam {
    type State<const D: usize> = AdamState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamState<D>>,
    ) -> (Tensor<D>, Option<AdamState<D>>) {
        let options = &self.options;
        if options.amsgrad {
            return self.burns().step(lr, tensor, grad, state);
        }
        let options = Options {
            rate: lr,
            beta_1: options.beta_1,
            beta_2: options.beta_2,
            epsilon: options.epsilon,
            decay: Decay::L2(options.weight_decay),
        };
        let momentum = state.map(|state| state.momentum);
        let (tensor, momentum) = moments::step(&options, tensor, grad, momentum);
        (tensor, Some(AdamState::new(momentum)))
    }

    fn to_device<const D: usize>(mut state: AdamState<D>, device: &Device) -> AdamState<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}
