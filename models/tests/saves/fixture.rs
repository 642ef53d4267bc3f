//! The tiny models, their training states as PyTorch has written them, and the losses that follow.

use burn::module::{Module, ParamGroup};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist_models::bert::{self, Family, Tokens};
use burn_dist_models::hf::HfName;
use burn_dist_models::saves::AdamWSettings;
use burn_dist_models::{BertClassifier, BertConfig, Vit, VitConfig, vit};
use serde_json::Value;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The optimizer of a model, as its program would make it.
pub(crate) fn optimizer<T: Tiny>(settings: &AdamWSettings) -> ModuleOptimizer {
    let names = T::NO_DECAY.to_vec();
    let group = (!names.is_empty()).then(|| ParamGroup::from_any_predicates(names));
    settings.optimizer(group)
}

/// A device of plain tensors in f64.
pub(crate) fn device() -> Device {
    static F64: OnceLock<()> = OnceLock::new();
    F64.get_or_init(|| {
        Device::default().configure(FloatDType::F64).unwrap();
    });
    Device::flex()
}

/// A model of the fixtures.
pub(crate) trait Tiny: 'static {
    type Model: Module + 'static;
    const NAME: &'static str;
    fn init(config: &Value, device: &Device) -> Self::Model;
    fn hf_name(path: &str) -> Option<HfName>;
    /// Names in the paths of what does not decay.
    const NO_DECAY: &'static [&'static str];
    fn logits(model: &Self::Model, batch: &Batch<'_>) -> Tensor<2>;
}

pub(crate) struct TinyVit;
pub(crate) struct TinyBert;

/// The state of a training run, and what came after it.
pub(crate) struct Fixture {
    pub(crate) json: Value,
    pub(crate) file: PathBuf,
}

/// Some samples of a batch.
pub(crate) struct Batch<'a> {
    json: &'a Value,
    samples: Range<usize>,
    device: Device,
}

impl Fixture {
    pub(crate) fn of<T: Tiny>() -> Self {
        device();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/torch_state");
        let file = |ending| PathBuf::from(format!("{folder}/{}.{ending}", T::NAME));
        let text = std::fs::read_to_string(file("json")).unwrap();
        Self {
            json: serde_json::from_str(&text).unwrap(),
            file: file("safetensors"),
        }
    }

    pub(crate) fn init<T: Tiny>(&self, device: &Device) -> T::Model {
        T::init(&self.json["config"], device)
    }

    pub(crate) fn lr(&self) -> f64 {
        self.json["lr"].as_f64().unwrap()
    }

    pub(crate) fn losses(&self) -> Vec<f64> {
        let losses = self.json["losses"].as_array().unwrap().iter();
        losses.map(|loss| loss.as_f64().unwrap()).collect()
    }

    /// The part of each batch that belongs to a rank of so many.
    pub(crate) fn batches(&self, (rank, size): (usize, usize), device: &Device) -> Vec<Batch<'_>> {
        let batches = self.json["batches"].as_array().unwrap();
        let mut parts = Vec::new();
        for json in batches {
            let each = numbers(&json["labels"]).len() / size;
            parts.push(Batch {
                json,
                samples: rank * each..(rank + 1) * each,
                device: device.clone(),
            });
        }
        parts
    }
}

fn numbers(json: &Value) -> Vec<f64> {
    let numbers = json.as_array().unwrap().iter();
    numbers.map(|number| number.as_f64().unwrap()).collect()
}

impl Batch<'_> {
    /// The numbers of this name of the samples, each of so many.
    fn of(&self, name: &str, each: usize) -> Vec<f64> {
        let Range { start, end } = self.samples;
        numbers(&self.json[name])[start * each..end * each].to_vec()
    }

    fn ints<const D: usize>(&self, name: &str, each: usize) -> Tensor<D, Int> {
        let ints: Vec<i64> = self.of(name, each).iter().map(|x| *x as i64).collect();
        let shape: Vec<usize> = [ints.len() / each, each][..D].to_vec();
        Tensor::from_data(TensorData::new(ints, shape), &self.device)
    }

    /// The mean loss of the samples.
    pub(crate) fn loss<T: Tiny>(&self, model: &T::Model) -> Tensor<1> {
        let labels = self.ints::<1>("labels", 1);
        cross_entropy_sum(T::logits(model, self), labels, None) / self.samples.len() as f64
    }
}

fn size(config: &Value, name: &str) -> usize {
    config[name].as_u64().unwrap() as usize
}

impl Tiny for TinyVit {
    type Model = Vit;
    const NAME: &'static str = "vit";
    const NO_DECAY: &'static [&'static str] = &[];

    fn init(config: &Value, device: &Device) -> Vit {
        VitConfig::new(size(config, "classes"))
            .with_image_size(size(config, "image_size"))
            .with_patch_size(size(config, "patch_size"))
            .with_width(size(config, "width"))
            .with_blocks(size(config, "blocks"))
            .with_heads(size(config, "heads"))
            .with_mlp_width(size(config, "mlp_width"))
            .with_norm_eps(1e-6)
            .init(device)
            .unwrap()
    }

    fn hf_name(path: &str) -> Option<HfName> {
        vit::hf_name(path)
    }

    fn logits(model: &Vit, batch: &Batch<'_>) -> Tensor<2> {
        let side = 8;
        let images = batch.of("images", 3 * side * side);
        let shape = [batch.samples.len(), 3, side, side];
        model.forward(Tensor::from_data(
            TensorData::new(images, shape),
            &batch.device,
        ))
    }
}

impl Tiny for TinyBert {
    type Model = BertClassifier;
    const NAME: &'static str = "bert";
    const NO_DECAY: &'static [&'static str] = &["bias", "gamma", "beta"];

    fn init(config: &Value, device: &Device) -> BertClassifier {
        BertConfig::new()
            .with_vocab(size(config, "vocab"))
            .with_positions(size(config, "positions"))
            .with_types(size(config, "types"))
            .with_width(size(config, "width"))
            .with_blocks(size(config, "blocks"))
            .with_heads(size(config, "heads"))
            .with_mlp_width(size(config, "mlp_width"))
            .with_dropout(0.0)
            .with_attention_dropout(0.0)
            .with_head_dropout(0.0)
            .init_classifier(size(config, "classes"), device)
            .unwrap()
    }

    fn hf_name(path: &str) -> Option<HfName> {
        bert::hf_name(Family::Bert, path)
    }

    fn logits(model: &BertClassifier, batch: &Batch<'_>) -> Tensor<2> {
        let tokens = |name| batch.ints::<2>(name, 8);
        let padding = tokens("attention").equal_elem(0);
        let all = Tokens::new(tokens("ids")).with_types(tokens("types"));
        model.forward(all.with_padding(padding))
    }
}
