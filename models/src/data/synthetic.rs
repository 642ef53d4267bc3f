//! Images that are generated instead of downloaded, so that every example and test runs without files.
//!
//! A model learns them in a minute, but only from the pattern (stripes of three directions, a checkerboard, rings,
//! each fine or coarse). Colours, contrast, position, slant, spacing and noise are drawn for each image, so that
//! neither the mean colour nor a single pixel predicts the class. The mirror image of a pattern has the same
//! class, so that the random flips of training do not change a label.
//!
//! Only additions, multiplications, square roots and rounding are used, which IEEE 754 defines to the last bit:
//! the images are the same bytes on every platform, which sines would not be.

use burn_dist::data::{Dataset, Stream};
use burn_dist::{Error, Result};

use super::{CHANNELS, Image, PIXELS, SIDE};

const CLASSES: [&str; 10] = [
    "fine upright stripes",
    "coarse upright stripes",
    "fine level stripes",
    "coarse level stripes",
    "fine diagonal stripes",
    "coarse diagonal stripes",
    "fine checkerboard",
    "coarse checkerboard",
    "fine rings",
    "coarse rings",
];
/// The number of the first test image, above those of all training sets.
const FIRST_TEST: u64 = 1 << 63;

/// Patterns of ten classes in random colours, computed from a seed and the image's number.
///
/// Labels cycle through the classes, so every ten images hold one of each. Nothing is kept in memory; an image costs
/// less than 10 µs.
///
/// # Example
///
/// ```
/// use burn_dist::data::Dataset;
/// use burn_dist_models::data::Synthetic;
///
/// let (train, test) = (Synthetic::train(42, 2048), Synthetic::test(42, 512));
/// assert_eq!(train.get(13)?.label, 3);
/// assert_eq!(train.get(13)?, train.get(13)?);
/// assert_ne!(train.get(13)?, test.get(13)?);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Synthetic {
    seed: u64,
    first: u64,
    len: usize,
}

impl Synthetic {
    /// `len` images to train on.
    #[must_use]
    pub fn train(seed: u64, len: usize) -> Self {
        Self {
            seed,
            first: 0,
            len,
        }
    }

    /// `len` images to test on, none of which is in any training set.
    #[must_use]
    pub fn test(seed: u64, len: usize) -> Self {
        Self {
            seed,
            first: FIRST_TEST,
            len,
        }
    }

    /// The ten classes' names, by label.
    #[must_use]
    pub fn classes() -> &'static [&'static str] {
        &CLASSES
    }
}

impl Dataset for Synthetic {
    type Item = Image;

    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> Result<Image> {
        if index >= self.len {
            return Err(Error::config(
                "image index",
                format!("less than the {} images there are", self.len),
                index,
            ));
        }
        let label = index % CLASSES.len();
        let number = self.first + index as u64;
        let mut stream = Stream::new(*b"patterns", self.seed, number, 0);
        let pattern = Pattern::draw(label, &mut stream);
        let paint = Paint::draw(&mut stream);
        Ok(Image {
            pixels: render(&pattern, &paint, &mut stream),
            label: label as u16,
        })
    }
}

/// A wave over the image plane, in periods.
#[derive(Debug, Clone, Copy)]
enum Pattern {
    Stripes(Axis),
    Checkerboard(Axis, Axis),
    Rings {
        x: f32,
        y: f32,
        frequency: f32,
        phase: f32,
    },
}

/// A direction, with the number of periods a pixel in it and the phase at the origin.
#[derive(Debug, Clone, Copy)]
struct Axis {
    x: f32,
    y: f32,
    phase: f32,
}

impl Axis {
    /// About the direction (x, y), off by up to an eighth.
    fn draw(x: f32, y: f32, frequency: f32, stream: &mut Stream) -> Self {
        let slant = stream.between(-0.125, 0.125);
        Self {
            x: (x - slant * y) * frequency,
            y: (y + slant * x) * frequency,
            phase: stream.unit(),
        }
    }

    fn wave(self, x: f32, y: f32) -> f32 {
        triangle(self.x * x + self.y * y + self.phase)
    }
}

impl Pattern {
    fn draw(label: usize, stream: &mut Stream) -> Self {
        let coarse = label % 2 == 1;
        let period = if coarse {
            stream.between(9.0, 11.0)
        } else {
            stream.between(4.0, 5.0)
        };
        let frequency = 1.0 / period;
        match label / 2 {
            0 => Self::Stripes(Axis::draw(1.0, 0.0, frequency, stream)),
            1 => Self::Stripes(Axis::draw(0.0, 1.0, frequency, stream)),
            2 => {
                // Rising or falling, so that the mirror image has the same class.
                let half = 0.5_f32.sqrt();
                let y = if stream.coin() { half } else { -half };
                Self::Stripes(Axis::draw(half, y, frequency, stream))
            }
            3 => Self::Checkerboard(
                Axis::draw(1.0, 0.0, frequency, stream),
                Axis::draw(0.0, 1.0, frequency, stream),
            ),
            _ => Self::Rings {
                x: stream.between(8.0, 24.0),
                y: stream.between(8.0, 24.0),
                frequency,
                phase: stream.unit(),
            },
        }
    }

    /// The height of the wave at a pixel, from -1 to 1.
    fn wave(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Stripes(axis) => axis.wave(x, y),
            Self::Checkerboard(across, down) => across.wave(x, y) * down.wave(x, y),
            Self::Rings {
                x: centre_x,
                y: centre_y,
                frequency,
                phase,
            } => {
                let (x, y) = (x - centre_x, y - centre_y);
                triangle((x * x + y * y).sqrt() * frequency + phase)
            }
        }
    }
}

/// A wave of period 1 between -1 and 1, made of straight lines.
fn triangle(at: f32) -> f32 {
    4.0 * (at - at.floor() - 0.5).abs() - 1.0
}

/// The mean and the amplitude of each channel.
#[derive(Debug)]
struct Paint([(f32, f32); CHANNELS]);

impl Paint {
    fn draw(stream: &mut Stream) -> Self {
        Self(std::array::from_fn(|_| {
            let middle = stream.between(80.0, 176.0);
            let swing = stream.between(30.0, 70.0);
            // The sign is random, so that the brightness of a pattern does not predict the class.
            (middle, if stream.coin() { swing } else { -swing })
        }))
    }
}

fn render(pattern: &Pattern, paint: &Paint, stream: &mut Stream) -> [u8; PIXELS] {
    let mut wave = [0.0; SIDE * SIDE];
    for (at, wave) in wave.iter_mut().enumerate() {
        *wave = pattern.wave((at % SIDE) as f32, (at / SIDE) as f32);
    }
    let mut pixels = [0; PIXELS];
    stream.fill(&mut pixels);
    for (plane, (middle, swing)) in pixels.chunks_exact_mut(SIDE * SIDE).zip(paint.0) {
        for (pixel, wave) in plane.iter_mut().zip(&wave) {
            // The byte is random so far: noise of up to 32 either way. The conversion stops at 0 and 255.
            let noise = (f32::from(*pixel) - 127.5) * 0.25;
            *pixel = (middle + swing * wave + noise) as u8;
        }
    }
    pixels
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn images(data: &Synthetic) -> Vec<Image> {
        (0..data.len())
            .map(|index| data.get(index).unwrap())
            .collect()
    }

    /// The share of the test images whose features are nearest to their class's mean over the training images.
    fn nearest_mean(features: impl Fn(&Image) -> Vec<f32>) -> f32 {
        let size = features(&Synthetic::train(1, 1).get(0).unwrap()).len();
        let mut means = vec![vec![0.0; size]; CLASSES.len()];
        let train = images(&Synthetic::train(1, 2000));
        for image in &train {
            let mean = &mut means[usize::from(image.label)];
            for (mean, feature) in mean.iter_mut().zip(features(image)) {
                *mean += feature / 200.0;
            }
        }
        let test = images(&Synthetic::test(1, 500));
        let right = test.iter().filter(|image| {
            let features = features(image);
            let distance = |mean: &Vec<f32>| -> f32 {
                mean.iter()
                    .zip(&features)
                    .map(|(a, b)| (a - b) * (a - b))
                    .sum()
            };
            let nearest = means
                .iter()
                .enumerate()
                .min_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
            nearest.unwrap().0 == usize::from(image.label)
        });
        right.count() as f32 / test.len() as f32
    }

    #[test]
    fn mean_colours_do_not_predict_the_class() {
        let accuracy = nearest_mean(|image| {
            let planes = image.pixels.chunks_exact(SIDE * SIDE);
            planes
                .map(|plane| plane.iter().copied().map(f32::from).sum::<f32>() / plane.len() as f32)
                .collect()
        });
        assert!(accuracy < 0.25, "{accuracy}");
    }

    #[test]
    fn single_pixels_do_not_predict_the_class() {
        let accuracy = nearest_mean(|image| image.pixels.iter().copied().map(f32::from).collect());
        assert!(accuracy < 0.25, "{accuracy}");
    }

    #[test]
    fn images_are_distinct_across_seeds_and_sets() {
        let mut all = images(&Synthetic::train(1, 300));
        all.extend(images(&Synthetic::test(1, 300)));
        all.extend(images(&Synthetic::train(2, 300)));
        let distinct: std::collections::HashSet<_> = all.iter().map(|image| image.pixels).collect();
        assert_eq!(distinct.len(), 900);
    }

    #[test]
    fn labels_cycle_through_the_classes() {
        let labels: Vec<_> = images(&Synthetic::test(1, 12))
            .iter()
            .map(|image| image.label)
            .collect();
        assert_eq!(labels, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
        assert_eq!(
            Synthetic::train(1, 3).get(3).unwrap_err().to_string(),
            "image index: expected less than the 3 images there are, found 3"
        );
    }

    /// Accuracies in the documentation and in tests hold for these very bytes.
    #[test]
    fn the_images_have_their_known_checksum() {
        let sum = images(&Synthetic::train(42, 10))
            .iter()
            .flat_map(|image| image.pixels)
            .fold(0_u32, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(byte.into())
            });
        assert_eq!(sum, 3_072_697_524);
    }
}
