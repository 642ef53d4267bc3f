//! Batches of pictures: squares of bytes become normalised tensors.

use burn::tensor::{Device, Tensor, TensorData};
use burn_dist::data::BatchInfo;

use super::picture::Picture;
use crate::data::{CHANNELS, ImageBatch};
use crate::hf::Preprocessor;

/// Makes batches of squares that a [`Transform`](super::Transform) has cut.
///
/// # Example
///
/// ```
/// use burn::tensor::Device;
/// use burn_dist::data::BatchInfo;
/// use burn_dist_models::data::{Picture, PictureBatcher};
/// use burn_dist_models::hf::Preprocessor;
///
/// let batcher = PictureBatcher::new(&Device::flex(), &Preprocessor::from_hf("{}")?);
/// let white = Picture { width: 8, height: 8, pixels: vec![255; 192], label: 300 };
/// let info = BatchInfo {
///     epoch: 0,
///     step: 0,
///     indices: vec![0],
///     weights: vec![1.0],
///     count: 1,
///     global_count: 1,
/// };
/// let batch = batcher.collate(&[white], &info);
/// assert_eq!(batch.images.dims(), [1, 3, 8, 8]);
/// assert_eq!(batch.images.max().into_scalar::<f32>(), 1.0);
/// # Ok::<(), burn_dist_models::hf::PreprocessorError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PictureBatcher {
    device: Device,
    /// The normalised value of each byte, by channel.
    values: [[f32; 256]; CHANNELS],
}

impl PictureBatcher {
    /// A batcher that normalises as `preprocessor` says.
    #[must_use]
    pub fn new(device: &Device, preprocessor: &Preprocessor) -> Self {
        let value = |channel: usize, byte: usize| {
            let scaled = byte as f32 * preprocessor.rescale;
            (scaled - preprocessor.mean[channel]) / preprocessor.std[channel]
        };
        Self {
            device: device.clone(),
            values: std::array::from_fn(|channel| std::array::from_fn(|byte| value(channel, byte))),
        }
    }

    /// The batch of `items`, which have one size, to be passed to [`Loader::new`](burn_dist::data::Loader::new).
    ///
    /// # Panics
    ///
    /// As Burn's tensors, if the pictures have different sizes; the loader makes an error of it.
    #[must_use]
    pub fn collate(&self, items: &[Picture], info: &BatchInfo) -> ImageBatch {
        let size = items.len();
        let first = items.first();
        let (height, width) = first.map_or((0, 0), |first| (first.height, first.width));
        let mut pixels = Vec::with_capacity(size * CHANNELS * height * width);
        for picture in items {
            for (channel, values) in self.values.iter().enumerate() {
                let plane = picture.pixels.iter().skip(channel).step_by(CHANNELS);
                pixels.extend(plane.map(|&byte| values[usize::from(byte)]));
            }
        }
        let labels: Vec<i64> = items.iter().map(|picture| picture.label.into()).collect();
        let images = TensorData::new(pixels, [size, CHANNELS, height, width]);
        let weights = TensorData::new(info.weights.clone(), [size]);
        ImageBatch {
            images: Tensor::from_data(images, &self.device),
            labels: Tensor::from_data(TensorData::new(labels, [size]), &self.device),
            weights: Tensor::from_data(weights, &self.device),
            count: info.count,
            global_count: info.global_count,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::transform::Transform;
    use super::super::transform::golden::Golden;
    use super::*;

    /// A step of a byte divided by the deviation is what scaling may differ by.
    #[test]
    fn batches_are_those_of_hugging_faces_processor() {
        let golden = Golden::read();
        for (name, text, std) in [
            (
                "half",
                r#"{"size": 16, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#,
                0.5,
            ),
            (
                "imagenet",
                r#"{"size": {"height": 16, "width": 16}, "resample": 3, "image_mean": [0.485, 0.456, 0.406],
                    "image_std": [0.229, 0.224, 0.225]}"#,
                0.224,
            ),
            (
                "rescaled",
                r#"{"size": {"height": 16, "width": 16}, "do_normalize": false}"#,
                1.0,
            ),
        ] {
            let preprocessor = Preprocessor::from_hf(text).unwrap();
            let batcher = PictureBatcher::new(&Device::flex(), &preprocessor);
            let source = golden.picture("source");
            let square = Transform::evaluation(preprocessor, 16).apply(source, 0, 0);
            let info = BatchInfo {
                epoch: 0,
                step: 0,
                indices: vec![0],
                weights: vec![1.0],
                count: 1,
                global_count: 1,
            };
            let batch = batcher.collate(&[square.unwrap()], &info);
            let found: Vec<f32> = batch.images.into_data().try_into_vec().unwrap();
            let expected = golden.floats(&format!("processed/{name}"));
            assert_eq!(found.len(), expected.len());
            let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let off: Vec<f32> = off.collect();
            let worst = off.iter().copied().fold(0.0, f32::max);
            assert!(worst < 1.01 / 255.0 / std, "{name}: {worst}");
            let mean = off.iter().sum::<f32>() / off.len() as f32;
            assert!(mean < 0.1 / 255.0 / std, "{name}: {mean}");
        }
    }
}
