//! One run of a unit: its all-gather ahead of or at its forward, the view of each parameter that a layer
//! reads, the reshard behind it, the second all-gather in backward, and the hook that hands its gradients
//! over.
//!
//! The passes of a forward and what they hold are found through thread-locals, because Burn's
//! `param.val()` takes no argument: the open units are in `scope`, the prefetch in `prefetch`.

mod activations;
mod call;
mod check;
mod leaf;
mod pass;
mod plain;
mod prefetch;
mod probe;
mod recompute;
mod scope;
mod weight;

pub use activations::{Activations, MapActivations};
pub use call::unit;

pub(crate) use probe::{UnitRecord, record};
