//! The engine: how a Burn module trains while each rank holds a shard of it.
//!
//! A sharded parameter is a Burn [reparameterization]: the `Param` stores this rank's shard, and
//! `param.val()` yields the full parameter. So unmodified layers gather by themselves, while
//! optimizers and gradients see only shards, under the same `ParamId`, and the model's type does
//! not change. The rooms, each of which knows only those below it:
//!
//! - `owners`: steps of optimizers that need some parameters whole;
//! - `check`: whether an optimizer is right on shards, and whether a step agrees with one plain device;
//! - `step`: from the backward passes of a step to what an optimizer takes;
//! - `unit`: one run of a unit, from its prefetch to its post-backward hook, and [`unit`](crate::unit())
//!   itself;
//! - `init`: from a Burn module to a sharded one ([`Strategy::shard`]);
//! - `model`: a module and its shards, their all-gather, and the reduction of their gradients;
//! - `tape`: the operations on the autodiff tape;
//! - `memory`: shards and flat buffers, of the process or of a GPU.
//!
//! `unit` and `step` do not know each other: a pass hands its gradients to the backward session of its
//! model, which a step has opened.
//!
//! # Why the memory goes away
//!
//! The full parameter is registered as an operation that is cheap to repeat, so the layers that consume it
//! put a way to gather it *again* on the tape, not its value. After a unit's forward nothing holds the
//! gathered buffer (reshard after forward); backward asks for the parameter, and the pass gathers once more.
//!
//! # Why backward goes unit by unit
//!
//! Burn runs backward steps by depth, deepest first, and a parameter has depth 0: every reduction
//! would come at the very end, all full gradients alive. A unit therefore has a *token*, computed from its
//! inputs, that is a second parent of all its parameters: they lie as deep as their unit does. The token's
//! own backward runs after those of all parameters: it is the unit's post-backward hook.
//!
//! [reparameterization]: burn::module::Reparameterization
//! [`Strategy::shard`]: crate::Strategy::shard

mod check;
mod init;
mod memory;
mod model;
mod owners;
mod step;
#[cfg(feature = "nn")]
mod sum;
mod tape;
mod unit;

pub use check::{Shadow, Shadowed};
pub use model::full::Destination;
pub use model::record::records_of_shards;
pub use model::summary::{Summary, TensorSummary};
pub use owners::Stepper;
pub use step::{Accumulation, Clipped, ShardedGradients};
pub use unit::{Activations, MapActivations, unit};

pub(crate) use init::ValueSource;
pub(crate) use memory::{Shard, SharedFlat};
pub(crate) use model::{
    MapTensors, Replicas, ShardedParam, Sharding, StoredShards, StoredUnit, Visit, VisitTensors,
    is_trainable, map_tensors, visit_tensors, walk,
};
#[cfg(feature = "nn")]
pub(crate) use sum::sum_over_ranks;
