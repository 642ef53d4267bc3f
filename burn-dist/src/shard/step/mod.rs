//! A step, from its backward passes to what an optimizer takes: the passes are run, their gradients
//! reduced and divided, running state averaged, norms computed and clipped.

mod accumulation;
mod gradients;
mod missed;
mod running_state;
mod trained;

pub use accumulation::Accumulation;
pub use gradients::{Clipped, ShardedGradients};

pub(crate) use trained::Trained;
