//! A Burn module and its shards: which units a sharded model has, what this rank stores of them, how they
//! are gathered, and where the gradients of a backward pass are collected.
//!
//! A [`Sharding`] is what one call of `Strategy::shard` made, shared by all clones of the model. A
//! parameter says through its reparameterization which [`ShardedParam`] of it it is, [`walk`] finds that
//! again, and [`StoredShards`] is what it finds.

mod adapted;
mod deferred;
mod elements;
pub(crate) mod full;
mod gather;
mod owners;
mod paths;
pub(crate) mod record;
mod reduce;
mod replicas;
mod session;
mod sharded;
mod sharding;
mod stored;
pub(crate) mod summary;
mod unsharded;

pub(crate) use adapted::Adapted;
pub(crate) use gather::{GatheredUnit, Part};
pub(crate) use owners::{Witness, assign, cost, id_for_stepper, pieces};
pub(crate) use paths::{MapTensors, VisitTensors, map_tensors, visit_tensors};
pub(crate) use replicas::Replicas;
pub(crate) use session::{FullGradients, GradientSums, PostBackward, UnitGradients};
pub(crate) use sharded::{Sharded, ShardedParam, Visit, is_trainable, walk};
pub(crate) use sharding::Sharding;
pub(crate) use stored::{StoredShards, StoredUnit, not_sharded};
