//! Loss scaling for f16: gradients too small for the type are computed from a larger loss.

use crate::error::Result;
use crate::shard::ShardedGradients;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Scales the loss so that gradients fit f16, and finds the scale by itself.
///
/// Training in f16 fails quietly where gradients are below 6e-8: they are zero. Multiplied by a large
/// number before backward and divided afterwards they survive. If the number is too large something
/// overflows; then the step is skipped on every rank, and the number halved. After
/// `growth_interval` good steps it is doubled.
///
/// The whole scaler is its state: save it with the rest (it is `Serialize`), and a resumed run goes
/// on with the same scale.
///
/// ```
/// use burn::{nn::LinearConfig, optim::SgdConfig, tensor::Tensor};
/// use burn_dist::{GradScaler, Precision, Strategy, launch::Threads, unit};
///
/// Threads::new(2).run(|world| {
///     let model = LinearConfig::new(4, 1).init(&world.device());
///     let strategy = Strategy::fsdp().precision(Precision::f16());
///     let mut model = strategy.shard(model, &world)?;
///     let mut optim = world.optimizer(SgdConfig::new().init(), &model)?;
///     let mut scaler = GradScaler::new();
///
///     let x = Tensor::<2>::ones([8, 4], &world.device());
///     let loss = unit(&model, x, |model, x| model.forward(x)).mean();
///     let grads = world.backward(scaler.scale(loss), &model)?;
///     if let Some(grads) = scaler.unscale(grads)? {
///         model = optim.step(0.1, model, grads.clip_norm(1.0)?.grads);
///     } // else: skipped, on every rank
///     Ok(())
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `torch.amp.GradScaler`, with one flag for all ranks as in `ShardedGradScaler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradScaler {
    scale: f64,
    growth_factor: f64,
    backoff_factor: f64,
    growth_interval: u32,
    /// Good steps since the scale last changed.
    good: u32,
    skipped: u64,
    enabled: bool,
}

impl GradScaler {
    /// A scaler that starts at 65536, doubles after 2000 good steps and halves after a bad one.
    pub fn new() -> Self {
        Self {
            scale: 65536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            good: 0,
            skipped: 0,
            enabled: true,
        }
    }

    /// A scaler that does nothing, for f32 and bf16: the loop stays the same.
    pub fn disabled() -> Self {
        Self {
            scale: 1.0,
            enabled: false,
            ..Self::new()
        }
    }

    /// The same, starting at another scale.
    pub fn starting_at(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// The same, doubling after so many good steps.
    pub fn growing_every(self, growth_interval: u32) -> Self {
        Self {
            growth_interval,
            ..self
        }
    }

    /// What the loss is multiplied by now.
    pub fn current_scale(&self) -> f64 {
        self.scale
    }

    /// Whether it does anything.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Steps that were skipped so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The loss to run backward from.
    pub fn scale(&self, loss: Tensor<1>) -> Tensor<1> {
        match self.enabled {
            true => loss * self.scale,
            false => loss,
        }
    }

    /// The true gradients, or `None` if any of any rank is not finite: then skip the step.
    ///
    /// Also adapts the scale. Collective; call it once a step, on every rank.
    ///
    /// # Cost
    /// One all-reduce of a byte; none if disabled.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn unscale(&mut self, gradients: ShardedGradients) -> Result<Option<ShardedGradients>> {
        if !self.enabled {
            return Ok(Some(gradients));
        }
        if !gradients.all_finite()? {
            self.scale *= self.backoff_factor;
            self.good = 0;
            self.skipped += 1;
            return Ok(None);
        }
        let gradients = gradients.scaled(1.0 / self.scale);
        self.good += 1;
        if self.good >= self.growth_interval {
            self.scale *= self.growth_factor;
            self.good = 0;
        }
        Ok(Some(gradients))
    }
}

impl Default for GradScaler {
    fn default() -> Self {
        Self::new()
    }
}
