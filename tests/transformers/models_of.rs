//! The models of the checkpoints, with their inputs.

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_dist_models::bert::{self, Bert, BertClassifier, BertMaskedLm, Head, Tokens};
use burn_dist_models::hf::HfName;
use burn_dist_models::vit::{self, VitConfig};
use burn_dist_models::{BertConfig, Vit};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// From a module path to a name in a file.
pub(crate) type NamesOf = Box<dyn Fn(&str) -> Option<HfName> + Send + Sync>;

/// `expected.safetensors`: the inputs and outputs of a model.
pub struct Inputs {
    given: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    pub expected: Vec<f32>,
}

impl Inputs {
    pub fn read(folder: &Path) -> Self {
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut given: BTreeMap<_, _> = file
            .iter()
            .map(|(name, view)| {
                let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                (name.to_owned(), tensor)
            })
            .collect();
        let (dtype, _, logits) = given.remove("logits").unwrap();
        assert_eq!(dtype, Dtype::F32);
        let floats = logits
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        Self {
            given,
            expected: floats.collect(),
        }
    }

    /// The same inputs with these outputs, for the other side to compare.
    pub fn write(&self, folder: &Path, logits: &[f32]) {
        let logits: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        // The reader compares with its own shape: a row for each sample is enough to tell it.
        let theirs = std::iter::once(("logits", Dtype::F32, self.shape(logits.len() / 4), &logits));
        let given = self.given.iter();
        let given =
            given.map(|(name, (dtype, shape, data))| (name.as_str(), *dtype, shape.clone(), data));
        let views = given
            .chain(theirs)
            .map(|(name, dtype, shape, data)| (name, TensorView::new(dtype, shape, data).unwrap()));
        let file = folder.join("expected.safetensors");
        safetensors::serialize_to_file(views, None, &file).unwrap();
    }

    /// `[samples, classes]`, or `[samples, tokens, features]` where there is an output for each token.
    fn shape(&self, elements: usize) -> Vec<usize> {
        let samples = self.given.values().next().unwrap().1[0];
        match self.given.get("input_ids") {
            Some((_, shape, _)) if elements / samples >= shape[1] => {
                vec![samples, shape[1], elements / samples / shape[1]]
            }
            _ => vec![samples, elements / samples],
        }
    }

    fn ints(&self, name: &str, device: &Device) -> Option<Tensor<2, Int>> {
        let (dtype, shape, bytes) = self.given.get(name)?;
        assert_eq!(*dtype, Dtype::I64);
        let data = TensorData::from_bytes_vec(bytes.clone(), shape.clone(), DType::I64);
        Some(Tensor::from_data(data, device))
    }

    fn tokens(&self, device: &Device) -> Tokens {
        let mut tokens = Tokens::new(self.ints("input_ids", device).unwrap());
        if let Some(mask) = self.ints("attention_mask", device) {
            tokens = tokens.with_padding(mask.equal_elem(0));
        }
        match self.ints("token_type_ids", device) {
            Some(types) => tokens.with_types(types),
            None => tokens,
        }
    }

    fn images(&self, device: &Device) -> Tensor<4> {
        let (_, shape, bytes) = &self.given["pixel_values"];
        let data = TensorData::from_bytes_vec(bytes.clone(), shape.clone(), DType::F32);
        Tensor::from_data(data, (device, DType::F32))
    }
}

/// One of our models.
pub trait Checked: Module {
    /// The model that a `config.json` describes.
    fn of(config: &str, device: &Device) -> Self;

    /// The names of its parameters in the files.
    fn names(config: &str) -> NamesOf;

    /// The `config.json` that we would write.
    fn config(theirs: &str) -> String;

    /// Its outputs for the inputs, row by row.
    fn outputs(&self, inputs: &Inputs) -> Vec<f32>;
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

impl Checked for Vit {
    fn of(config: &str, device: &Device) -> Self {
        VitConfig::from_hf(config).unwrap().init(device).unwrap()
    }

    fn names(_: &str) -> NamesOf {
        Box::new(vit::hf_name)
    }

    fn config(theirs: &str) -> String {
        VitConfig::from_hf(theirs).unwrap().to_hf()
    }

    fn outputs(&self, inputs: &Inputs) -> Vec<f32> {
        let model = self.valid();
        floats(model.forward(inputs.images(&model.devices()[0])))
    }
}

fn bert_names(config: &str) -> NamesOf {
    let family = BertConfig::from_hf(config).unwrap().0.family;
    Box::new(move |path| bert::hf_name(family, path))
}

impl Checked for BertClassifier {
    fn of(config: &str, device: &Device) -> Self {
        let (bert, classes) = BertConfig::from_hf(config).unwrap();
        bert.init_classifier(classes, device).unwrap()
    }

    fn names(config: &str) -> NamesOf {
        bert_names(config)
    }

    fn config(theirs: &str) -> String {
        let (bert, classes) = BertConfig::from_hf(theirs).unwrap();
        bert.to_hf(Head::Classifier(classes))
    }

    fn outputs(&self, inputs: &Inputs) -> Vec<f32> {
        let model = self.valid();
        floats(model.forward(inputs.tokens(&model.devices()[0])))
    }
}

impl Checked for BertMaskedLm {
    fn of(config: &str, device: &Device) -> Self {
        let (bert, _) = BertConfig::from_hf(config).unwrap();
        bert.init_masked_lm(device).unwrap()
    }

    fn names(config: &str) -> NamesOf {
        bert_names(config)
    }

    fn config(theirs: &str) -> String {
        let (bert, _) = BertConfig::from_hf(theirs).unwrap();
        bert.to_hf(Head::MaskedLm)
    }

    fn outputs(&self, inputs: &Inputs) -> Vec<f32> {
        let model = self.valid();
        floats(model.forward(inputs.tokens(&model.devices()[0])))
    }
}

impl Checked for Bert {
    fn of(config: &str, device: &Device) -> Self {
        BertConfig::from_hf(config).unwrap().0.init(device).unwrap()
    }

    fn names(config: &str) -> NamesOf {
        bert_names(config)
    }

    fn config(theirs: &str) -> String {
        BertConfig::from_hf(theirs).unwrap().0.to_hf(Head::Encoder)
    }

    fn outputs(&self, inputs: &Inputs) -> Vec<f32> {
        let model = self.valid();
        floats(model.forward(inputs.tokens(&model.devices()[0])))
    }
}
