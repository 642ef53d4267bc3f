//! The vocabulary of rank 0 on all ranks, so that each token has the same number everywhere.

use crate::data::text::Tokenizer;
use burn_dist::{Result, World};

/// The tokenizer that `make` returns on rank 0, on every rank.
///
/// The other ranks neither read its files nor train it, so that it is the same everywhere even if `make` is not
/// deterministic. Collective: two broadcasts, of 16 bytes and of its JSON.
///
/// # Errors
/// What `make` returns, on all ranks; what a collective returns.
///
/// # Example
/// ```
/// use burn_dist::prelude::*;
/// use burn_dist_models::data::text::{Newswire, Tokenizer};
/// use burn_dist_models::run::shared_tokenizer;
///
/// let sizes = Threads::new(2).run(|world| {
///     let tokenizer = shared_tokenizer(&world, || Tokenizer::train(&Newswire::train(0, 100), 500))?;
///     Ok(tokenizer.size())
/// })?;
/// assert_eq!(sizes, [500, 500]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub fn shared_tokenizer(
    world: &World,
    make: impl FnOnce() -> Result<Tokenizer>,
) -> Result<Tokenizer> {
    let json = world.from_chief(|| make()?.to_json())?;
    Tokenizer::from_json(json.as_bytes())
}
