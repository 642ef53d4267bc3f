//! Loss scaling for f16: gradients too small for the type are computed from a larger loss.

use crate::error::{Error, Result};
use crate::shard::ShardedGradients;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Scales the loss so that gradients fit f16, and finds the scale by itself.
///
/// Training in f16 fails quietly where gradients are below 6e-8: they are zero. Multiplied by a large
/// number before backward and divided afterwards they survive. If the number is too large something
/// overflows; then the step is skipped on every rank, and the number halved. After
/// `growth_interval` good steps it is doubled. A parameter that is NaN overflows at every scale, so
/// there is a smallest one, 1, and a largest number of skipped steps in a row, 50.
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
    /// Steps skipped since the last good one.
    in_a_row: u32,
    min_scale: f64,
    max_skips: u32,
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
            in_a_row: 0,
            min_scale: 1.0,
            max_skips: 50,
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

    /// The same, never below another scale than 1: an overflow at this scale is an error.
    pub fn at_least(self, min_scale: f64) -> Self {
        Self { min_scale, ..self }
    }

    /// The same, with an error after more than so many skipped steps in a row instead of 50.
    pub fn skipping_at_most(self, max_skips: u32) -> Self {
        Self { max_skips, ..self }
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
        if self.enabled {
            loss * self.scale
        } else {
            loss
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
    /// [`Error::LossScale`] on every rank if gradients are not finite even at the smallest scale, or
    /// were not in too many steps in a row: then it is not the scale that is wrong. What a collective
    /// returns.
    pub fn unscale(&mut self, gradients: ShardedGradients) -> Result<Option<ShardedGradients>> {
        if !self.enabled {
            return Ok(Some(gradients));
        }
        if !gradients.all_finite()? {
            self.good = 0;
            self.skipped += 1;
            self.in_a_row += 1;
            let is_last = self.scale <= self.min_scale || self.in_a_row > self.max_skips;
            if is_last {
                let (place, loss) = gradients.not_finite()?;
                return Err(Error::LossScale {
                    scale: self.scale,
                    skips: self.in_a_row,
                    place,
                    loss,
                });
            }
            self.scale = (self.scale * self.backoff_factor).max(self.min_scale);
            return Ok(None);
        }
        self.in_a_row = 0;
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
