//! The models of the bench, each with a batch.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_dist::nn::loss::cross_entropy;
use burn_dist::{Error, Result, World};
use burn_dist_models::bert::Tokens;
use burn_dist_models::{BertClassifier, BertConfig, Vit, VitConfig};

/// A classifier and a batch for it.
pub(crate) trait Subject {
    type Model: Module;
    fn init(&self, device: &Device) -> Result<Self::Model>;
    fn loss(&self, model: &Self::Model) -> Tensor<1>;
}

pub(crate) struct Images {
    config: VitConfig,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

pub(crate) struct Texts {
    config: BertConfig,
    ids: Tensor<2, Int>,
    labels: Tensor<1, Int>,
}

impl Subject for Images {
    type Model = Vit;

    fn init(&self, device: &Device) -> Result<Vit> {
        self.config.init(device).map_err(Error::user)
    }

    fn loss(&self, model: &Vit) -> Tensor<1> {
        let images = like(self.images.clone(), model);
        cross_entropy(model.forward(images), self.labels.clone())
    }
}

impl Subject for Texts {
    type Model = BertClassifier;

    fn init(&self, device: &Device) -> Result<BertClassifier> {
        self.config.init_classifier(4, device).map_err(Error::user)
    }

    fn loss(&self, model: &BertClassifier) -> Tensor<1> {
        cross_entropy(
            model.forward(Tokens::new(self.ids.clone())),
            self.labels.clone(),
        )
    }
}

/// `x` in the type that a plain model's parameters have; sharded ones cast for themselves.
fn like<M: Module>(x: Tensor<4>, model: &M) -> Tensor<4> {
    struct First(Option<FloatDType>);
    impl ModuleVisitor for First {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.get_or_insert(param.base().dtype().into());
        }
    }
    let mut first = First(None);
    model.visit(&mut first);
    match first.0 {
        Some(dtype) => x.cast(dtype),
        None => x,
    }
}

fn labels(classes: usize, batch: usize, device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = (0..batch).map(|i| (i % classes) as i64).collect();
    Tensor::from_data(TensorData::new(labels, [batch]), device)
}

pub(crate) fn images(config: VitConfig, batch: usize, world: &World) -> Images {
    let (side, device) = (config.image_size, world.device());
    let shape = [batch, 3, side, side];
    let pixel = |i: usize| ((i * 37 + world.rank() * 11) % 255) as f32 / 127.5 - 1.0;
    let pixels: Vec<f32> = (0..shape.iter().product()).map(pixel).collect();
    Images {
        config,
        images: Tensor::from_data(TensorData::new(pixels, shape), &device),
        labels: labels(10, batch, &device),
    }
}

pub(crate) fn texts(config: BertConfig, tokens: usize, batch: usize, world: &World) -> Texts {
    let device = world.device();
    let id = |i: usize| ((i * 97 + world.rank() * 13) % 1000 + 3) as i64;
    let ids: Vec<i64> = (0..batch * tokens).map(id).collect();
    Texts {
        config,
        ids: Tensor::from_data(TensorData::new(ids, [batch, tokens]), &device),
        labels: labels(4, batch, &device),
    }
}
