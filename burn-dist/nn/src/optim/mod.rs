//! Optimizers in one pass over each parameter, in place.
//!
//! [`AdamW`], [`Adam`], [`Lion`] and [`Sgd`] are Burn [`Optimizer`](burn::optim::Optimizer)s, made into one for
//! a module by their configuration's `init`. Their states are recorded under the names of Burn's own, so that a
//! save made with either loads into the other. On other types than f32 and other devices than
//! [`Device::flex`](burn::tensor::Device::flex) the same formulas are composed of Burn's operations.
//!
//! [`LowBitAdamW`] keeps the moments of AdamW in bf16 or eight bits.
//!
//! What Burn's AdamW does in fifteen operations on tensors, each reading and writing memory, is one loop here:
//! about 0.8 ns a parameter on one core with AVX2. Decay rates and bias corrections are computed in f64, as
//! PyTorch does; Burn's powers in f32 are why its AdamW differs from PyTorch's by 1e-6 after a few steps.
//!
//! # Example
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use burn_dist_nn::optim::AdamWConfig;
//!
//! let device = Device::flex().autodiff();
//! let mut model = LinearConfig::new(4, 1).init(&device);
//! let mut optimizer = AdamWConfig::new().with_weight_decay(0.01).init();
//! let loss = || model.forward(Tensor::<2>::ones([2, 4], &device)).powi_scalar(2).sum();
//! let before: f32 = loss().into_scalar();
//! let gradients = GradientsParams::from_grads(loss().backward(), &model);
//! model = optimizer.step(0.01, model, gradients);
//! # let after: f32 = model.forward(Tensor::<2>::ones([2, 4], &device)).powi_scalar(2).sum().into_scalar();
//! # assert!(after < before);
//! ```

mod adam;
mod adamw;
mod lion;
mod low_bit;
mod moments;
mod sgd;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use adam::{Adam, AdamConfig};
pub use adamw::{AdamW, AdamWConfig};
pub use lion::{Lion, LionConfig};
pub use low_bit::{LowBitAdamW, LowBitAdamWConfig, LowBitState, StateType};
pub use sgd::{Sgd, SgdConfig, SgdMomentum, SgdState};
