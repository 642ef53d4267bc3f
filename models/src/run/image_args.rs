//! The arguments about images: their size, the test part, and what to do about broken ones.

use super::values::at_least_1;
use clap::ValueEnum;
use serde::Serialize;

/// The arguments about images; all but the size are for folders of images.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct ImageArgs {
    /// Height and width of the images that the model sees; position embeddings of --from are interpolated to it
    /// [default: that of --from, or 32, or 224 for the models small to large on a folder of images].
    #[arg(long, alias = "image_size", value_name = "N", value_parser = at_least_1)]
    pub image_size: Option<usize>,

    /// Split off so much of each class as the test part, drawn by --seed, where a folder of images has none.
    #[arg(long, alias = "test_split", value_name = "SHARE", value_parser = share)]
    pub test_split: Option<f64>,

    /// What to do about images that cannot be decoded.
    #[arg(long, alias = "broken_images", value_enum, value_name = "WHAT", default_value_t = BrokenImages::Fail)]
    pub broken_images: BrokenImages,
}

/// What to do about images that cannot be decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
pub enum BrokenImages {
    /// End at the first one that is read, with its name.
    #[default]
    Fail,
    /// Decode all of them before training, each rank its share, and train without those that are broken.
    Skip,
}

/// A share that leaves something on both sides.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a number between 0 and 1, such as 0.2".into()),
    }
}
