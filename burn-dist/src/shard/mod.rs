//! The engine: how a Burn module trains while each rank holds a piece of it.
//!
//! A sharded parameter is a Burn [reparameterization]: the `Param` stores this rank's piece, and
//! `param.val()` yields the gathered weight. So unmodified layers gather by themselves, while
//! optimizers and gradients see only pieces, under the same `ParamId`, and the model's type does
//! not change. From the outside in:
//!
//! - `cut` checks a model, lays its units out, and cuts every parameter ([`Strategy::shard`]);
//!   `survey` finds out what the model stores, `agreement` compares that over ranks, and what has a
//!   value already is `received` from rank 0;
//! - `scope` is [`unit`](crate::unit()), the boundary at which a unit's parameters come and go;
//! - `pass` is one run of a unit: its gather, its re-gather in backward, its reduction; `forecast`
//!   starts the gather of the unit that should come next;
//! - `recompute` keeps a unit's inputs instead of its tape, and runs it again in backward;
//! - `ops` puts a pass on the autodiff tape: the *view* of a parameter, whose backward hands its
//!   gradient to the pass, and the *token*, which makes the tape finish one unit before the next;
//! - `backward` takes what the passes have collected to the sum over ranks, `accumulation` runs the
//!   tapes of a step and turns the sums into `gradients`;
//! - `replicas` finds out whether ranks that store the same still do;
//! - `shadow` compares all of that with one plain device, unit by unit, through what `watch` notes;
//! - `sharding` is what they share: the units and groups of what one call sharded, on one rank;
//!   `trained` finds those that a model consists of, and that nothing trainable is left out;
//! - `flat` is the memory all of this happens in, a rank's tensors as `primitive`s: of the process
//!   (`host`) or of a GPU (`device`); `exchange` takes it to the other ranks.
//!
//! # Why the memory goes away
//!
//! The view is registered as an operation that is cheap to repeat, so the layers that consume it
//! put a way to gather the weight *again* on the tape, not the weight. After a unit's forward
//! nothing holds the gathered buffer; backward asks for the view, and the pass gathers once more.
//!
//! # Why backward goes unit by unit
//!
//! Burn runs backward steps by depth, deepest first, and a parameter has depth 0: every reduction
//! would come at the very end, all full gradients alive. The token is computed from the unit's
//! inputs and is a second parent of every view, so the views lie as deep as their unit does. Its
//! own backward runs after those of all views, and that is what fires the reduction.
//!
//! [reparameterization]: burn::module::Reparameterization
//! [`Strategy::shard`]: crate::Strategy::shard

mod accumulation;
mod activations;
mod agreement;
mod backward;
mod cut;
#[cfg(feature = "cube")]
mod device;
mod exchange;
mod flat;
mod forecast;
mod full;
#[cfg(feature = "cube")]
mod fused;
mod gradients;
mod host;
mod ops;
mod optimizer;
mod pass;
mod primitive;
mod received;
mod recompute;
mod replicas;
mod running;
mod scope;
mod seen;
mod shadow;
mod sharded;
mod sharding;
mod source;
mod survey;
mod trained;
mod values;
mod watch;

pub use accumulation::Accumulation;
pub use activations::{Activations, MapActivations};
pub use full::Destination;
pub use gradients::{Clipped, ShardedGradients};
pub use scope::unit;
pub use shadow::{Shadow, Shadowed};

pub(crate) use flat::{Piece, Shared};
pub(crate) use full::{Apart, not_sharded};
pub(crate) use sharded::{Identity, Visit, walk};
pub(crate) use sharding::Sharding;
pub(crate) use values::Values;
