//! From a Burn module to a sharded one: what the model stores is surveyed, compared over ranks, and each
//! parameter is initialised, sharded and dropped before the next.

mod adapt;
mod adapters;
mod agreement;
mod applied;
mod cut;
mod shard;
mod stored_whole;
mod survey;
mod sync;
mod values;

pub(crate) use values::ValueSource;
