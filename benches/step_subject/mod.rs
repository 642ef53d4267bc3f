//! The models that the bench of a step trains, and their batches.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::nn::loss::cross_entropy;
use burn_dist_models::bert::Tokens;
use burn_dist_models::{BertClassifier, BertConfig, Vit, VitConfig};

/// Samples of a rank.
pub const BATCH: usize = 32;
/// Tokens of a text.
const TOKENS: usize = 128;

/// A model and what it is trained on.
pub trait Subject: Module + Clone {
    /// The samples of a rank; what they show does not matter here.
    type Batch: Clone;

    fn new(device: &Device) -> Self;

    fn batch(rank: usize, device: &Device) -> Self::Batch;

    fn loss(&self, batch: Self::Batch) -> Tensor<1>;
}

/// Whole numbers below `below`, which differ by rank.
fn integers<const D: usize>(shape: [usize; D], below: usize, rank: usize) -> TensorData {
    let number = |i: usize| ((i * 37 + rank * 11) % below) as i64;
    let numbers: Vec<i64> = (0..shape.iter().product()).map(number).collect();
    TensorData::new(numbers, shape)
}

impl Subject for Vit {
    type Batch = (Tensor<4>, Tensor<1, Int>);

    fn new(device: &Device) -> Self {
        VitConfig::cifar(10).init(device).unwrap()
    }

    fn batch(rank: usize, device: &Device) -> Self::Batch {
        let pixels = integers([BATCH, 3, 32, 32], 255, rank);
        let images = Tensor::<4, Int>::from_data(pixels, device).float();
        let images = images.mul_scalar(1.0 / 127.5).sub_scalar(1.0);
        let labels = Tensor::from_data(integers([BATCH], 10, 0), device);
        (images, labels)
    }

    fn loss(&self, (images, labels): Self::Batch) -> Tensor<1> {
        cross_entropy(self.forward(images), labels)
    }
}

impl Subject for BertClassifier {
    type Batch = (Tensor<2, Int>, Tensor<1, Int>);

    fn new(device: &Device) -> Self {
        BertConfig::tiny().init_classifier(4, device).unwrap()
    }

    fn batch(rank: usize, device: &Device) -> Self::Batch {
        let ids = Tensor::from_data(integers([BATCH, TOKENS], 30_522, rank), device);
        (ids, Tensor::from_data(integers([BATCH], 4, 0), device))
    }

    fn loss(&self, (ids, labels): Self::Batch) -> Tensor<1> {
        // The last quarter of every text is padding.
        let place = Tensor::<1, Int>::arange(0..TOKENS as i64, &ids.device());
        let padding = place.greater_equal_elem(TOKENS as i64 * 3 / 4);
        let padding = padding.unsqueeze::<2>().expand([BATCH, TOKENS]);
        cross_entropy(self.forward(Tokens::new(ids).with_padding(padding)), labels)
    }
}
