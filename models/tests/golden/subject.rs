//! The reference's models as ours, one type for each file.

use super::Golden;
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_dist::nn::loss::{CrossEntropy, IGNORED, cross_entropy_sum};
use burn_dist::optim::{AdamWConfig, Groups, LayerDecay};
use burn_dist::weights::{Name, Weights};
use burn_dist_models::bert::{self, Family, Tokens};
use burn_dist_models::hf::HfName;
use burn_dist_models::{BertClassifier, BertConfig, BertMaskedLm, Vit, VitConfig, vit};
use std::ops::Range;

/// A model, and how the file's inputs go through it.
pub trait Subject {
    type Model: Module;
    /// The file's name without its extension.
    const FILE: &'static str;

    /// The model with the file's weights.
    fn model(golden: &Golden, dtype: DType, device: &Device) -> Self::Model;

    /// What the model says about these samples: a row for each label.
    fn logits(
        model: &Self::Model,
        golden: &Golden,
        samples: Range<usize>,
        dtype: DType,
        device: &Device,
    ) -> Tensor<2>;

    fn hf_name(path: &str) -> HfName;

    /// The sum of the losses, and how many they are.
    fn loss(golden: &Golden, logits: Tensor<2>, samples: Range<usize>) -> (Tensor<1>, usize) {
        let labels = labels(golden, samples, &logits.device());
        let [count] = labels.dims();
        (cross_entropy_sum(logits, labels, None), count)
    }

    /// The reference's optimizer, and the rates of its layers.
    fn optimizer(golden: &Golden, _: &Self::Model) -> (ModuleOptimizer, LayerDecay) {
        (adamw(golden).init(), LayerDecay::none())
    }

    fn golden() -> Golden {
        // Tests run in their package's folder, wherever they were built.
        let folders = ["tests/golden", "../tests/golden"].map(std::path::Path::new);
        let name = format!("{}.json", Self::FILE);
        let found = folders.into_iter().find(|f| f.join(&name).is_file());
        Golden::read(found.unwrap_or(folders[0]), Self::FILE)
    }
}

/// An image classifier, stepped as one or in groups.
#[derive(Debug)]
pub struct ImagesTiny<const GROUPS: bool>;

/// A classifier of texts, in the one shape or the other.
#[derive(Debug)]
pub struct TextTiny<const DISTIL: bool>;

/// A masked language model, whose decoder is tied.
#[derive(Debug)]
pub struct WordsTiny<const DISTIL: bool>;

pub type VitTiny = ImagesTiny<false>;
pub type VitGroupsTiny = ImagesTiny<true>;
pub type BertTiny = TextTiny<false>;
pub type DistilTiny = TextTiny<true>;
pub type BertLmTiny = WordsTiny<false>;
pub type DistilLmTiny = WordsTiny<true>;

impl<const GROUPS: bool> Subject for ImagesTiny<GROUPS> {
    type Model = Vit;
    const FILE: &'static str = if GROUPS {
        "vit_groups_tiny"
    } else {
        "vit_tiny"
    };

    fn optimizer(golden: &Golden, model: &Vit) -> (ModuleOptimizer, LayerDecay) {
        let config = adamw(golden);
        if !GROUPS {
            return (config.init(), LayerDecay::none());
        }
        let groups = Groups::of(model).unwrap();
        let still = groups.no_decay().embeddings().group();
        let none = config.clone().with_weight_decay(0.0).build();
        let depths = groups.block_depths("blocks.*").unwrap();
        let rates = groups.layer_decay(golden.number("optimizer.layer_decay"), depths);
        (config.init().with_group(still, none, None), rates.unwrap())
    }

    fn model(golden: &Golden, dtype: DType, device: &Device) -> Vit {
        let model = VitConfig::new(golden.size("num_labels"))
            .with_image_size(golden.size("image_size"))
            .with_patch_size(golden.size("patch_size"))
            .with_channels(golden.size("num_channels"))
            .with_width(golden.size("hidden_size"))
            .with_blocks(golden.size("num_hidden_layers"))
            .with_heads(golden.size("num_attention_heads"))
            .with_mlp_width(golden.size("intermediate_size"))
            .with_norm_eps(golden.number("config.layer_norm_eps"))
            .init(device)
            .unwrap();
        weighted::<Self>(golden, model, dtype)
    }

    fn logits(
        model: &Vit,
        golden: &Golden,
        samples: Range<usize>,
        dtype: DType,
        device: &Device,
    ) -> Tensor<2> {
        let images = golden.data("inputs/pixel_values").convert_dtype(dtype);
        let images = Tensor::<4>::from_data(images, (device, dtype));
        model.forward(images.narrow(0, samples.start, samples.len()))
    }

    fn hf_name(path: &str) -> HfName {
        vit::hf_name(path).unwrap()
    }
}

impl<const DISTIL: bool> Subject for TextTiny<DISTIL> {
    type Model = BertClassifier;
    const FILE: &'static str = if DISTIL { "distil_tiny" } else { "bert_tiny" };

    fn model(golden: &Golden, dtype: DType, device: &Device) -> BertClassifier {
        let model = config(golden, family(DISTIL))
            .init_classifier(golden.size("num_labels"), device)
            .unwrap();
        weighted::<Self>(golden, model, dtype)
    }

    fn logits(
        model: &BertClassifier,
        golden: &Golden,
        samples: Range<usize>,
        _: DType,
        device: &Device,
    ) -> Tensor<2> {
        model.forward(tokens(golden, samples, device))
    }

    fn hf_name(path: &str) -> HfName {
        bert::hf_name(family(DISTIL), path).unwrap()
    }
}

impl<const DISTIL: bool> Subject for WordsTiny<DISTIL> {
    type Model = BertMaskedLm;
    const FILE: &'static str = if DISTIL {
        "distil_lm_tiny"
    } else {
        "bert_lm_tiny"
    };

    fn model(golden: &Golden, dtype: DType, device: &Device) -> BertMaskedLm {
        let model = config(golden, family(DISTIL))
            .init_masked_lm(device)
            .unwrap();
        weighted::<Self>(golden, model, dtype)
    }

    fn logits(
        model: &BertMaskedLm,
        golden: &Golden,
        samples: Range<usize>,
        _: DType,
        device: &Device,
    ) -> Tensor<2> {
        model.forward(tokens(golden, samples, device)).flatten(0, 1)
    }

    fn hf_name(path: &str) -> HfName {
        bert::hf_name(family(DISTIL), path).unwrap()
    }

    fn loss(golden: &Golden, logits: Tensor<2>, samples: Range<usize>) -> (Tensor<1>, usize) {
        let labels = labels(golden, samples, &logits.device());
        let loss = CrossEntropy::new().ignore(IGNORED);
        let count = loss.weight(labels.clone(), None).into_scalar::<f32>() as usize;
        (loss.sum(logits, labels, None), count)
    }
}

/// The reference's settings.
fn adamw(golden: &Golden) -> AdamWConfig {
    AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.999)
        .with_epsilon(1e-8)
        .with_weight_decay(golden.number("optimizer.weight_decay"))
}

fn family(distil: bool) -> Family {
    if distil {
        Family::DistilBert
    } else {
        Family::Bert
    }
}

fn config(golden: &Golden, family: Family) -> BertConfig {
    // The files were made without dropout.
    let config = BertConfig::new()
        .with_dropout(0.0)
        .with_attention_dropout(0.0)
        .with_head_dropout(0.0)
        .with_family(family)
        .with_vocab(golden.size("vocab_size"))
        .with_positions(golden.size("max_position_embeddings"));
    match family {
        Family::Bert => config
            .with_types(golden.size("type_vocab_size"))
            .with_width(golden.size("hidden_size"))
            .with_blocks(golden.size("num_hidden_layers"))
            .with_heads(golden.size("num_attention_heads"))
            .with_mlp_width(golden.size("intermediate_size"))
            .with_norm_eps(golden.number("config.layer_norm_eps")),
        Family::DistilBert => config
            .with_width(golden.size("dim"))
            .with_blocks(golden.size("n_layers"))
            .with_heads(golden.size("n_heads"))
            .with_mlp_width(golden.size("hidden_dim")),
    }
}

/// A model with the file's weights, as `dtype`.
fn weighted<S: Subject>(golden: &Golden, model: S::Model, dtype: DType) -> S::Model {
    struct Cast(FloatDType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|t| {
                let grad = t.is_require_grad();
                if t.is_autodiff() {
                    Tensor::from_inner(t.inner().cast(self.0)).set_require_grad(grad)
                } else {
                    t.cast(self.0)
                }
            })
        }
    }
    let named = |path: &str| {
        let HfName { name, transpose } = S::hf_name(path);
        let name = Name::new(format!("weights/{name}"));
        Some(if transpose { name.transposed() } else { name })
    };
    let weights = Weights::open(golden.path()).unwrap().named(named);
    let (model, report) = weights.apply(model).unwrap();
    assert!(report.missing.is_empty(), "{report}");
    let dtype = if dtype == DType::F64 {
        FloatDType::F64
    } else {
        FloatDType::F32
    };
    model.map(&mut Cast(dtype))
}

fn tokens(golden: &Golden, samples: Range<usize>, device: &Device) -> Tokens {
    let read = |name: &str| {
        let all = Tensor::<2, Int>::from_data(golden.data(&format!("inputs/{name}")), device);
        all.narrow(0, samples.start, samples.len())
    };
    let tokens = Tokens::new(read("input_ids")).with_padding(read("attention_mask").equal_elem(0));
    if golden.has("inputs/token_type_ids") {
        tokens.with_types(read("token_type_ids"))
    } else {
        tokens
    }
}

/// The labels of some samples, one after the other.
fn labels(golden: &Golden, samples: Range<usize>, device: &Device) -> Tensor<1, Int> {
    let all: Vec<i64> = golden.data("inputs/labels").iter::<i64>().collect();
    let each = all.len() / golden.number("batch") as usize;
    let mine = &all[samples.start * each..samples.end * each];
    Tensor::from_data(TensorData::new(mine.to_vec(), [mine.len()]), device)
}
