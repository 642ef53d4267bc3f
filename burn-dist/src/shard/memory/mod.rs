//! What a rank's bytes are: shards of parameters and flat buffers, in the memory of the process or of a
//! GPU, and the collectives over them.
//!
//! A [`Shard`] is what a parameter stores, a [`Flat`] buffer is filled element by element and handed to a
//! collective, a [`SharedFlat`] is read through views. Each is an enum over `host` and `device`, the only
//! files that know how a backend stores a tensor.

#[cfg(feature = "cube")]
mod device;
mod dtype;
mod exchange;
mod flat;
#[cfg(feature = "cube")]
mod fused;
mod host;
mod primitive;
mod quantized;
mod quantized_weight;

pub(crate) use exchange::PendingFlat;
pub(crate) use flat::{Flat, Shard, Shards, SharedFlat, is_same_memory};
pub(crate) use primitive::{Primitive, Residence, StorageBackend, untracked};
pub(crate) use quantized::{Quantized, only_on_host};
pub(crate) use quantized_weight::{encode, stored};
