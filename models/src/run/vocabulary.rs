//! The vocabulary of rank 0 on all ranks and in all runs of a model, so that each token has the same number everywhere.

use crate::data::text::Tokenizer;
use burn_dist::{Error, Result, World};

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

/// The checksum of a vocabulary, which a save keeps: the CRC-32 of its JSON.
///
/// # Errors
/// As [`Tokenizer::to_json`].
pub fn vocabulary_checksum(tokenizer: &Tokenizer) -> Result<u32> {
    Ok(crc32fast::hash(tokenizer.to_json()?.as_bytes()))
}

/// Returns if a run goes on with the vocabulary whose checksum is in its save.
///
/// # Errors
/// [`Error::User`] for another vocabulary: the same words would have other numbers.
pub fn same_vocabulary(saved: u32, tokenizer: &Tokenizer) -> Result<()> {
    let found = vocabulary_checksum(tokenizer)?;
    if found == saved {
        return Ok(());
    }
    Err(Error::user(format!(
        "the save is of a run with another vocabulary (checksum {saved:08x}) than this one's ({found:08x}): give \
         --tokenizer the folder of that one"
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::text::Newswire;

    #[test]
    fn another_vocabulary_is_an_error() {
        let texts = Newswire::train(0, 100);
        let (one, other) = (Tokenizer::train(&texts, 500), Tokenizer::train(&texts, 400));
        let saved = vocabulary_checksum(&one.unwrap()).unwrap();
        let same = Tokenizer::train(&texts, 500).unwrap();
        assert!(same_vocabulary(saved, &same).is_ok());
        let error = same_vocabulary(saved, &other.unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains("another vocabulary"), "{error}");
    }
}
