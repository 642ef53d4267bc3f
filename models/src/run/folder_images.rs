//! Images of a folder for a run: both parts, without broken ones where that is asked for, as the model takes them.

use super::image_args::{BrokenImages, ImageArgs};
use crate::data::{ImageFolder, TestShare};
use burn_dist::data::Dataset;
use burn_dist::{Result, World};
use std::path::Path;

/// Images that each rank looks at between two exchanges, so that none of them waits for long.
const ROUND: usize = 128;
/// The most broken images that are named.
const NAMED: usize = 20;

/// The training and the test part of a folder. Collective.
///
/// # Errors
/// Those of [`ImageFolder::parts`]; what a collective returns.
pub(super) fn open(
    world: &World,
    folder: &Path,
    args: &ImageArgs,
    (seed, workers): (u64, usize),
) -> Result<(ImageFolder, ImageFolder)> {
    let share = args.test_split.map(|share| TestShare::new(share, seed));
    let (train, test) = ImageFolder::parts(folder, share.transpose()?)?;
    world.agree_hash("the training images", &train)?;
    world.agree_hash("the test images", &test)?;
    if world.is_chief() {
        let (ours, theirs, classes) = (train.len(), test.len(), train.classes().len());
        log::info!("{ours} training and {theirs} test images of {classes} classes");
        if let Some(line) = train.left_out() {
            log::warn!("{}: {line}", folder.display());
        }
    }
    match args.broken_images {
        BrokenImages::Fail => Ok((train, test)),
        BrokenImages::Skip => Ok((
            without_broken(world, "training", train, workers)?,
            without_broken(world, "test", test, workers)?,
        )),
    }
}

/// The images that can be decoded; each rank looks at its share of them, and all leave out the same.
fn without_broken(
    world: &World,
    part: &str,
    images: ImageFolder,
    workers: usize,
) -> Result<ImageFolder> {
    let (rank, ranks, all) = (world.rank(), world.size(), images.len());
    let mut broken: Vec<(usize, String)> = Vec::new();
    for start in (0..all).step_by(ROUND * ranks) {
        let round = start..all.min(start + ROUND * ranks);
        let mine: Vec<usize> = round.skip(rank).step_by(ranks).collect();
        let found = images.broken(&mine, workers)?;
        let found = found.into_iter().map(|image| (image.index, image.message));
        let found: Vec<_> = found.collect();
        broken.extend(world.gather(&found)?.into_iter().flatten());
    }
    broken.sort_unstable();
    if world.is_chief() && !broken.is_empty() {
        let named = broken.iter().take(NAMED);
        let named: Vec<&str> = named.map(|(_, message)| message.as_str()).collect();
        let more = match broken.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        log::warn!(
            "{} of {all} {part} images are broken and left out in every epoch: {}{more}",
            broken.len(),
            named.join(", ")
        );
    }
    images.without(&broken.into_iter().map(|(index, _)| index).collect())
}
