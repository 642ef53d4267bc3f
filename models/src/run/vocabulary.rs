//! One vocabulary for all ranks: a token that had another number elsewhere would be another word there.

use crate::data::text::Tokenizer;
use burn_dist::comm::SpanMut;
use burn_dist::{Result, World};

/// The tokenizer that `make` returns on rank 0, on every rank.
///
/// The others neither read its files nor look at the texts a second time, and even a tokenizer that is not
/// made alike twice is the same everywhere. Collective: two broadcasts, of 8 bytes and of its JSON.
///
/// # Errors
/// What `make` returns, on rank 0; what a collective returns.
///
/// # Example
/// ```
/// use burn_dist::prelude::*;
/// use burn_dist_models::data::text::{Newswire, Tokenizer};
/// use burn_dist_models::run::shared;
///
/// let sizes = Threads::new(2).run(|world| {
///     let tokenizer = shared(&world, || Tokenizer::train(&Newswire::train(0, 100), 500))?;
///     Ok(tokenizer.size())
/// })?;
/// assert_eq!(sizes, [500, 500]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub fn shared(world: &World, make: impl FnOnce() -> Result<Tokenizer>) -> Result<Tokenizer> {
    let mut json = if world.is_chief() {
        make()?.to_json()?.into_bytes()
    } else {
        Vec::new()
    };
    let (comm, label) = (world.comm(), "vocabulary".into());
    let mut length = [json.len() as u64];
    comm.broadcast(&label, 0, SpanMut::of(&mut length))?;
    json.resize(length[0] as usize, 0);
    comm.broadcast(&label, 0, SpanMut::of(&mut json))?;
    Tokenizer::from_json(&json)
}
