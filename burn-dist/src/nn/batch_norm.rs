//! Batch normalisation over the samples of all ranks.

use crate::shard::sum_over_ranks;
use crate::world::World;
use burn::config::Config;
use burn::module::{Flag, Initializer, Module, Param, RunningState};
use burn::tensor::{Tensor, module};

/// Settings of a [`SyncBatchNorm`]; those of [`burn::nn::BatchNormConfig`].
#[derive(Config, Debug)]
pub struct SyncBatchNormConfig {
    /// Number of channels.
    pub num_features: usize,
    /// Added to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// The share of a batch in the running statistics.
    #[config(default = 0.1)]
    pub momentum: f64,
}

impl SyncBatchNormConfig {
    /// The layer, over the ranks of `world`.
    ///
    /// # Panics
    /// If there are no channels, epsilon is not positive or the momentum is not in `[0, 1]`.
    pub fn init(&self, world: &World) -> SyncBatchNorm {
        assert!(self.num_features > 0, "a number of channels above 0");
        assert!(self.epsilon > 0.0, "an epsilon above 0");
        assert!((0.0..=1.0).contains(&self.momentum), "a momentum in [0, 1]");
        let (device, channels) = (world.device(), [self.num_features]);
        SyncBatchNorm {
            gamma: Initializer::Ones.init(channels, &device),
            beta: Initializer::Zeros.init(channels, &device),
            training: Param::from_bool(true),
            running_mean: RunningState::new(Tensor::zeros(channels, &device)),
            running_var: RunningState::new(Tensor::ones(channels, &device)),
            momentum: self.momentum,
            epsilon: self.epsilon,
            world: world.clone(),
        }
    }
}

/// Normalises each channel by the mean and the variance of all ranks' samples, and scales and shifts it.
///
/// The numbers are those of [`burn::nn::BatchNorm`] on one device with the whole batch, also where the ranks have
/// unequal numbers of samples; in evaluation both use the running statistics. Its records are Burn's. With Burn's own
/// layer each rank normalises by its own samples, and the running state is averaged over ranks after each step.
///
/// Collective in training: all ranks run it, and their losses depend on what it returns.
///
/// # Cost
/// Two all-reduces of a number a channel in forward, and two in backward, for which all ranks wait.
///
/// Ioffe and Szegedy, 2015, <https://arxiv.org/abs/1502.03167>.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_dist::nn::SyncBatchNormConfig;
/// use burn_dist::prelude::*;
///
/// let normed = Threads::new(2).run(|world| {
///     let norm = SyncBatchNormConfig::new(1).init(&world);
///     // -1 on rank 0, 1 on rank 1: each alone has no variance.
///     let x = Tensor::<2>::ones([4, 1], &world.device()) * (2.0 * world.rank() as f32 - 1.0);
///     Ok(norm.forward(x).mean().into_scalar::<f32>())
/// })?;
/// assert!((normed[0] + 1.0).abs() < 1e-4 && (normed[1] - 1.0).abs() < 1e-4);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `SyncBatchNorm`.
#[derive(Module, Debug)]
pub struct SyncBatchNorm {
    /// `[channels]`: the scale.
    pub gamma: Param<Tensor<1>>,
    /// `[channels]`: the shift.
    pub beta: Param<Tensor<1>>,
    /// Whether it uses the batch's statistics in training, and notes them.
    pub training: Param<Flag>,
    /// `[channels]`: the mean that evaluation uses.
    pub running_mean: RunningState<Tensor<1>>,
    /// `[channels]`: the variance that evaluation uses.
    pub running_var: RunningState<Tensor<1>>,
    /// The share of a batch in the running statistics.
    pub momentum: f64,
    /// Added to the variance.
    pub epsilon: f64,
    /// The ranks.
    #[module(skip)]
    world: World,
}

impl SyncBatchNorm {
    /// `x` and output: `[batch, channels, ..]`.
    ///
    /// # Panics
    /// If a collective fails, as [`unit`](crate::unit()).
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if x.device().is_autodiff() && self.training.is_enabled() {
            return self.train(x);
        }
        let device = x.device();
        let mean = self.running_mean.value().to_device(&device);
        let variance = self.running_var.value().to_device(&device);
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        module::batch_norm(x, gamma, beta, mean, variance, self.epsilon)
    }

    fn train<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let x = x.swap_dims(0, 1);
        let (shape, device, dtype) = (x.dims(), x.device(), x.dtype());
        let channels = shape[0];
        let each = shape[1..].iter().product::<usize>();
        let rows = x.reshape([channels, each]);

        // The ranks' sums and their numbers of samples, together.
        let count = Tensor::<1>::full([1], each as f64, (&device, dtype));
        let sums = rows.clone().sum_dim(1).squeeze_dim::<1>(1);
        let sums = sum_over_ranks(&self.world, Tensor::cat(vec![sums, count], 0));
        let count = sums.clone().narrow(0, channels, 1);
        let mean = sums.narrow(0, 0, channels) / count.clone();
        let centered = rows - mean.clone().unsqueeze_dim(1);
        let squares = centered.clone().square().sum_dim(1).squeeze_dim::<1>(1);
        let variance = sum_over_ranks(&self.world, squares) / count;
        self.note(mean, variance.clone());

        let column = |x: Tensor<1>| x.unsqueeze_dim::<2>(1);
        let scale = column(self.gamma.val()) / column((variance + self.epsilon).sqrt());
        let normed = centered * scale + column(self.beta.val());
        normed.reshape(shape).swap_dims(0, 1)
    }

    /// Takes the batch's statistics into the running ones.
    fn note(&self, mean: Tensor<1>, variance: Tensor<1>) {
        let both = [(&self.running_mean, mean), (&self.running_var, variance)];
        for (running, batch) in both {
            let before = running.value_sync().to_device(&batch.device());
            let after = before * (1.0 - self.momentum) + batch.detach() * self.momentum;
            running.update(after.detach());
        }
    }
}
