//! Batches of images: bytes become tensors, normalised and perhaps cropped and flipped.

use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::data::BatchInfo;

use super::augment::Crop;
use super::{CHANNELS, Classified, Image, PIXELS, SIDE};

/// Mean and standard deviation of CIFAR-10's training pixels by channel, on the scale from 0 to 1.
const MEAN: [f32; CHANNELS] = [0.4914, 0.4822, 0.4465];
const STD: [f32; CHANNELS] = [0.2470, 0.2435, 0.2616];

/// A batch of images as tensors, on the batcher's device.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// Normalised pixels, `[batch, channel, height, width]`.
    pub images: Tensor<4>,
    /// Classes, `[batch]`.
    pub labels: Tensor<1, Int>,
    /// The weight of each image's loss, `[batch]`: 1, or 0 for padding.
    pub weights: Tensor<1>,
    /// The number of images, padding not counted.
    pub count: usize,
    /// The number of images of all ranks in this step: what a summed loss is divided by.
    pub global_count: usize,
}

impl Classified for ImageBatch {
    fn labels(&self) -> Tensor<1, Int> {
        self.labels.clone()
    }

    fn weights(&self) -> Tensor<1> {
        self.weights.clone()
    }

    fn count(&self) -> usize {
        self.count
    }

    fn inner(self) -> Self {
        Self {
            images: self.images.inner(),
            labels: self.labels.inner(),
            weights: self.weights.inner(),
            ..self
        }
    }
}

/// Makes batches: normalises, and on request crops and flips at random.
///
/// Augmentation moves the image by up to 4 pixels in each direction, black filling the border, and mirrors
/// every other one. What happens to an image depends on the seed, the epoch and its index, so it is the same
/// for any number of ranks.
///
/// # Example
///
/// ```
/// use burn::tensor::Device;
/// use burn_dist::data::BatchInfo;
/// use burn_dist_models::data::{Image, ImageBatcher};
///
/// let batcher = ImageBatcher::new(&Device::flex());
/// let image = Image { pixels: [128; 3072], label: 7 };
/// let info = BatchInfo {
///     epoch: 0,
///     step: 0,
///     indices: vec![0],
///     weights: vec![1.0],
///     count: 1,
///     global_count: 1,
/// };
/// let batch = batcher.collate(&[image], &info);
/// assert_eq!(batch.images.dims(), [1, 3, 32, 32]);
/// ```
///
/// torchvision: `Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(..)])`.
#[derive(Debug, Clone)]
pub struct ImageBatcher {
    device: Device,
    /// The normalised value of each byte, by channel.
    values: [[f32; 256]; CHANNELS],
    augmentation: Option<u64>,
    side: usize,
}

impl ImageBatcher {
    /// A batcher for evaluation: CIFAR-10's normalisation and nothing random.
    #[must_use]
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            values: [[0.0; 256]; CHANNELS],
            augmentation: None,
            side: SIDE,
        }
        .with_normalization(MEAN, STD)
    }

    /// The same with other means and standard deviations by channel, on the scale from 0 to 1.
    #[must_use]
    pub fn with_normalization(mut self, mean: [f32; CHANNELS], std: [f32; CHANNELS]) -> Self {
        for ((values, mean), std) in self.values.iter_mut().zip(mean).zip(std) {
            for (byte, value) in values.iter_mut().enumerate() {
                *value = (byte as f32 / 255.0 - mean) / std;
            }
        }
        self
    }

    /// The same with images scaled to this height and width, for models of larger images.
    #[must_use]
    pub fn with_side(mut self, pixels: usize) -> Self {
        self.side = pixels;
        self
    }

    /// The same with random crops and flips, for training.
    #[must_use]
    pub fn with_augmentation(mut self, seed: u64) -> Self {
        self.augmentation = Some(seed);
        self
    }

    /// The batch of `items`, to be passed to [`Loader::new`](burn_dist::data::Loader::new).
    #[must_use]
    pub fn collate(&self, items: &[Image], info: &BatchInfo) -> ImageBatch {
        let mut pixels = Vec::with_capacity(items.len() * PIXELS);
        for (image, &index) in items.iter().zip(&info.indices) {
            let crop = match self.augmentation {
                Some(seed) => Crop::random(seed, info.epoch, index),
                None => Crop::NONE,
            };
            self.append(image, crop, &mut pixels);
        }
        let labels: Vec<i64> = items.iter().map(|image| image.label.into()).collect();
        let size = items.len();
        let images = TensorData::new(pixels, [size, CHANNELS, SIDE, SIDE]);
        let weights = TensorData::new(info.weights.clone(), [size]);
        let mut images = Tensor::from_data(images, &self.device);
        if self.side != SIDE {
            let bilinear =
                InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false);
            let scaled = bilinear.with_output_size([self.side, self.side]);
            images = interpolate(images, scaled);
        }
        ImageBatch {
            images,
            labels: Tensor::from_data(TensorData::new(labels, [size]), &self.device),
            weights: Tensor::from_data(weights, &self.device),
            count: info.count,
            global_count: info.global_count,
        }
    }

    /// Appends the image's values in one pass: crop, flip and normalisation at once.
    fn append(&self, image: &Image, crop: Crop, pixels: &mut Vec<f32>) {
        let columns: [Option<usize>; SIDE] = std::array::from_fn(|x| crop.column(x));
        for (plane, values) in image.pixels.chunks_exact(SIDE * SIDE).zip(&self.values) {
            let black = values[0];
            for y in 0..SIDE {
                match crop.row(y) {
                    Some(row) => {
                        let row = &plane[row * SIDE..][..SIDE];
                        let value =
                            |x: Option<usize>| x.map_or(black, |x| values[usize::from(row[x])]);
                        pixels.extend(columns.iter().map(|&x| value(x)));
                    }
                    None => pixels.extend([black; SIDE]),
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn_dist::data::{Batch, DistributedSampler, Loader};

    use super::*;
    use crate::data::Synthetic;

    fn batches(sampler: DistributedSampler, batcher: ImageBatcher, epoch: u64) -> Vec<ImageBatch> {
        let data = Synthetic::train(3, sampler.len());
        let loader = Loader::with_sampler(data, sampler, move |items, info| {
            batcher.collate(&items, info)
        });
        loader
            .unwrap()
            .epoch(epoch)
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    fn pixels(batch: &ImageBatch) -> Vec<f32> {
        batch.images.clone().into_data().try_into_vec().unwrap()
    }

    #[test]
    fn a_batch_for_evaluation_is_only_normalised() {
        let mut image = Image {
            pixels: [0; PIXELS],
            label: 4,
        };
        image.pixels[2 * SIDE * SIDE + 33] = 255;
        let info = BatchInfo {
            epoch: 1,
            step: 2,
            indices: vec![5],
            weights: vec![1.0],
            count: 1,
            global_count: 1,
        };
        let batcher = ImageBatcher::new(&Device::flex());
        let batcher = batcher.with_normalization([0.0, 0.5, 0.5], [1.0, 1.0, 0.25]);
        let batch = batcher.collate(&[image], &info);
        let values = pixels(&batch);
        assert_eq!((values[0], values[1024], values[2048]), (0.0, -0.5, -2.0));
        assert_eq!(values[2048 + 33], 2.0);
        assert_eq!(batch.labels.into_scalar::<i64>(), 4);
    }

    #[test]
    fn images_are_scaled_to_the_side_that_was_set() {
        let sampler = || DistributedSampler::new(3, Batch::per_rank(3), (0, 1)).unwrap();
        let plain = batches(sampler(), ImageBatcher::new(&Device::flex()), 0);
        let large = ImageBatcher::new(&Device::flex()).with_side(64);
        let large = batches(sampler(), large, 0);
        assert_eq!(large[0].images.dims(), [3, 3, 64, 64]);
        // Each pixel of the smaller image lies in the middle of four pixels of the larger one.
        let mean = |x: &ImageBatch| x.images.clone().mean().into_scalar::<f32>();
        assert!((mean(&large[0]) - mean(&plain[0])).abs() < 1e-2);
        let corner = |x: &ImageBatch| pixels(x)[0];
        assert_eq!(corner(&large[0]), corner(&plain[0]));
    }

    #[test]
    fn augmented_images_are_the_same_for_any_number_of_ranks() {
        let sampler = |rank| {
            let sampler = DistributedSampler::new(22, Batch::global(8), rank);
            sampler.unwrap().shuffled(9)
        };
        let batcher = || ImageBatcher::new(&Device::flex()).with_augmentation(1);
        let whole = batches(sampler((0, 1)), batcher(), 2);
        let parts: Vec<_> = (0..4)
            .map(|rank| batches(sampler((rank, 4)), batcher(), 2))
            .collect();
        for (step, whole) in whole.iter().enumerate() {
            let together: Vec<f32> = parts.iter().flat_map(|part| pixels(&part[step])).collect();
            assert_eq!(together, pixels(whole));
        }
        assert_ne!(
            pixels(&batches(sampler((0, 1)), batcher(), 3)[0]),
            pixels(&whole[0])
        );
    }

    #[test]
    fn padding_has_no_weight() {
        let sampler = DistributedSampler::new(1, Batch::per_rank(4), (1, 2)).unwrap();
        let batch = batches(sampler, ImageBatcher::new(&Device::flex()), 0).remove(0);
        assert_eq!(batch.images.dims(), [1, CHANNELS, SIDE, SIDE]);
        assert_eq!(batch.weights.into_scalar::<f32>(), 0.0);
        assert_eq!((batch.count, batch.global_count), (0, 1));
    }
}
