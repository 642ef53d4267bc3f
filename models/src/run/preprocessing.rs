//! The preprocessing of a run's images: that of the checkpoint, or ImageNet's.

use super::Pretrained;
use crate::hf::Preprocessor;
#[cfg(feature = "images")]
use burn_dist::World;
use burn_dist::{Error, Result};
use std::io::ErrorKind;

/// What a checkpoint's `preprocessor_config.json` says; `None` if it has none.
///
/// # Errors
/// [`Error::File`] if it cannot be read or is not understood.
pub(super) fn of_checkpoint(pretrained: Option<&Pretrained>) -> Result<Option<Preprocessor>> {
    let Some(pretrained) = pretrained else {
        return Ok(None);
    };
    let path = pretrained.folder().join("preprocessor_config.json");
    let expected = "how the model's images are made";
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Error::file(&path, expected, cause)),
    };
    let preprocessor = Preprocessor::from_hf(&text);
    preprocessor
        .map(Some)
        .map_err(|cause| Error::file(&path, expected, cause))
}

/// What is done to the images of a run, for squares of `side` pixels: the checkpoint's, or ImageNet's with a line of
/// rank 0 that says so.
///
/// # Errors
/// Those of [`of_checkpoint`].
#[cfg(feature = "images")]
pub(super) fn for_side(
    world: &World,
    pretrained: Option<&Pretrained>,
    side: usize,
) -> Result<Preprocessor> {
    match of_checkpoint(pretrained)? {
        Some(preprocessor) if preprocessor.side().is_some_and(|own| own != side) => {
            Ok(preprocessor.with_side(side))
        }
        Some(preprocessor) => Ok(preprocessor),
        None => {
            if world.is_chief() && pretrained.is_some() {
                log::info!(
                    "the checkpoint has no preprocessor_config.json: images are cut and normalised as for ImageNet"
                );
            }
            Ok(Preprocessor::imagenet(side))
        }
    }
}
