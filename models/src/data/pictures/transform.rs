//! How a picture becomes the square that a model takes, in training and in evaluation.

use super::picture::Picture;
use super::random_crop::RandomCrop;
use super::resize::resized;
use crate::hf::{Preprocessor, Resize};

/// The square that a model gets of a picture: always the same in evaluation, random in training.
///
/// Evaluation does what the [`Preprocessor`] says. Training takes a part of 8 % to 100 % of the pixels, of a ratio
/// between 3:4 and 4:3, scaled to the square, and mirrors every other one: `RandomResizedCrop` and
/// `RandomHorizontalFlip`, as both Hugging Face's script for fine-tuning a ViT and torchvision's do. What happens to an
/// image depends on the seed, the epoch and its index, so it is the same for any number of ranks and workers.
#[derive(Debug, Clone)]
pub struct Transform {
    preprocessor: Preprocessor,
    side: usize,
    seed: Option<u64>,
}

impl Transform {
    /// What is done in evaluation; an image that does not become a square of `side` pixels is an error.
    #[must_use]
    pub fn evaluation(preprocessor: Preprocessor, side: usize) -> Self {
        Self {
            side,
            preprocessor,
            seed: None,
        }
    }

    /// What is done in training, to squares of `side` pixels.
    #[must_use]
    pub fn training(preprocessor: Preprocessor, side: usize, seed: u64) -> Self {
        Self {
            side,
            preprocessor,
            seed: Some(seed),
        }
    }

    /// The square of a picture. The error says why there is none.
    pub(in crate::data) fn apply(
        &self,
        picture: Picture,
        epoch: u64,
        index: usize,
    ) -> Result<Picture, String> {
        let whole = (picture.width, picture.height);
        let filter = self.preprocessor.resample;
        let side = self.side;
        if let Some(seed) = self.seed {
            let crop = RandomCrop::draw((seed, epoch, index), whole);
            let part = picture.part(crop.corner, crop.size);
            let square = resized(&part, (side, side), filter)?;
            return Ok(if crop.flipped {
                square.flipped()
            } else {
                square
            });
        }
        let scaled = match self.preprocessor.resize {
            None => picture,
            Some(Resize::Square(side)) => resized(&picture, (side, side), filter)?,
            Some(Resize::Shorter(side)) => resized(&picture, shorter(whole, side), filter)?,
        };
        let square = match self.preprocessor.crop {
            Some(side) => middle(scaled, side)?,
            None => scaled,
        };
        if (square.width, square.height) == (side, side) {
            return Ok(square);
        }
        Err(format!(
            "{} x {} pixels, where the model takes {side} x {side}",
            square.width, square.height
        ))
    }
}

/// The square in the middle.
fn middle(picture: Picture, side: usize) -> Result<Picture, String> {
    let (width, height) = (picture.width, picture.height);
    match (width.checked_sub(side), height.checked_sub(side)) {
        (Some(0), Some(0)) => Ok(picture),
        (Some(across), Some(down)) => Ok(picture.part((across / 2, down / 2), (side, side))),
        _ => Err(format!(
            "{width} x {height} pixels, of which no {side} x {side} can be cut"
        )),
    }
}

/// Width and height of an image whose shorter side gets this length.
fn shorter((width, height): (usize, usize), side: usize) -> (usize, usize) {
    if width < height {
        (side, side * height / width)
    } else {
        (side * width / height, side)
    }
}

/// Golden numbers of Pillow and of Hugging Face's processors.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod golden {
    use super::super::picture::Picture;
    use safetensors::SafeTensors;

    pub(in crate::data::pictures) struct Golden(Vec<u8>);

    impl Golden {
        pub(in crate::data::pictures) fn read() -> Self {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
            Self(std::fs::read(format!("{folder}/images.safetensors")).unwrap())
        }

        pub(in crate::data::pictures) fn picture(&self, name: &str) -> Picture {
            let all = SafeTensors::deserialize(&self.0).unwrap();
            let tensor = all.tensor(name).unwrap();
            Picture {
                width: tensor.shape()[1],
                height: tensor.shape()[0],
                pixels: tensor.data().to_vec(),
                label: 0,
            }
        }

        pub(in crate::data::pictures) fn floats(&self, name: &str) -> Vec<f32> {
            let all = SafeTensors::deserialize(&self.0).unwrap();
            let tensor = all.tensor(name).unwrap();
            let chunks = tensor.data().chunks_exact(4);
            chunks
                .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
                .collect()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::golden::Golden;
    use super::*;

    #[test]
    fn the_shorter_side_and_the_middle_are_hugging_faces() {
        let golden = Golden::read();
        let source = golden.picture("source");
        let turned = Picture {
            width: source.height,
            height: source.width,
            pixels: (0..source.width)
                .flat_map(|x| (0..source.height).map(move |y| (y * source.width + x) * 3))
                .flat_map(|at| source.pixels[at..at + 3].to_vec())
                .collect(),
            label: 0,
        };
        for (shorter, crop) in [(20, 16), (37, 32), (45, 45)] {
            let preprocessor = Preprocessor {
                resize: Some(Resize::Shorter(shorter)),
                crop: Some(crop),
                ..Preprocessor::imagenet(crop)
            };
            for (picture, before) in [(&source, "cropped"), (&turned, "cropped/turned")] {
                let expected = golden.picture(&format!("{before}/{shorter}-{crop}"));
                let transform = Transform::evaluation(preprocessor.clone(), crop);
                let found = transform.apply(picture.clone(), 0, 0).unwrap();
                assert_eq!((found.width, found.height), (crop, crop));
                let off = expected.pixels.iter().zip(&found.pixels);
                let worst = off.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                assert!(worst <= 1, "{before} {shorter} {crop}: {worst}");
            }
        }
    }

    #[test]
    fn training_is_random_and_evaluation_is_not() {
        let source = Golden::read().picture("source");
        let preprocessor = Preprocessor::imagenet(14);
        let training = Transform::training(preprocessor.clone(), 14, 5);
        let of = |transform: &Transform, epoch, index| {
            transform.apply(source.clone(), epoch, index).unwrap()
        };
        assert_eq!(of(&training, 1, 2), of(&training, 1, 2));
        assert_ne!(of(&training, 1, 2), of(&training, 2, 2));
        assert_ne!(of(&training, 1, 2), of(&training, 1, 3));
        let evaluation = Transform::evaluation(preprocessor, 14);
        assert_eq!(of(&evaluation, 1, 2), of(&evaluation, 4, 7));
        let found = of(&training, 3, 3);
        assert_eq!((found.width, found.height), (14, 14));
    }

    #[test]
    fn a_middle_that_is_larger_than_the_image_is_an_error() {
        let source = Golden::read().picture("source");
        let error = |crop| {
            let preprocessor = Preprocessor {
                resize: None,
                crop,
                ..Preprocessor::imagenet(50)
            };
            let found = Transform::evaluation(preprocessor, 50).apply(source.clone(), 0, 0);
            found.unwrap_err()
        };
        assert_eq!(
            error(Some(50)),
            "53 x 37 pixels, of which no 50 x 50 can be cut"
        );
        assert_eq!(error(None), "53 x 37 pixels, where the model takes 50 x 50");
    }
}
