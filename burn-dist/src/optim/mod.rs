//! What goes with an optimizer on shards: groups of parameters with decays and rates of their own, and averages.
//!
//! Burn's own optimizers step shards as they are, groups (`ModuleOptimizer::with_group`) included. What they cannot
//! know is what a parameter was before it was sharded: a stored shard of a matrix has the shape `[elements, 1]`.
//! [`Groups`] reads full shapes from the layout and sorts parameters as the field does. [`Ema`] follows a model with a moving
//! average of each rank's shards.
//!
//! With the feature `nn`, the optimizers of [`burn-dist-nn`](burn_dist_nn::optim) are here too: AdamW, Adam, Lion and
//! SGD, each in one pass.

mod ema;
mod groups;
mod layer_decay;
mod no_decay;

pub use ema::Ema;
pub(crate) use ema::EmaProgress;
pub use groups::{GroupedParameter, Groups};
pub use layer_decay::LayerDecay;
pub use no_decay::NoDecay;

#[cfg(feature = "nn")]
#[doc(inline)]
pub use burn_dist_nn::optim::*;
