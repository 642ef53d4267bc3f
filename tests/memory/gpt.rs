//! A model of the layers in `burn_dist::nn`.

use crate::allocator::peak;
use crate::{check_model, measure_model};
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use burn_dist::nn::{self, TransformerEncoderConfig, TransformerEncoderInput};
use burn_dist::{Strategy, World, unit};
use std::sync::Barrier;

/// A GPT of the layers in `burn_dist::nn`, in training with dropout.
#[derive(Module, Debug)]
struct Gpt {
    words: nn::Embedding,
    encoder: nn::TransformerEncoder,
    norm: nn::RmsNorm,
    head: nn::Linear,
}

impl Gpt {
    fn new(device: &Device) -> Self {
        let encoder = TransformerEncoderConfig::new(512, 2048, 4, 8);
        Self {
            words: nn::EmbeddingConfig::new(500, 512).init(device),
            encoder: encoder.with_norm_first(true).init(device),
            norm: nn::RmsNormConfig::new(512).init(device),
            head: nn::LinearConfig::new(512, 500).init(device),
        }
    }

    fn loss(&self, device: &Device) -> Tensor<1> {
        let ids = Tensor::<2, Int>::from_data([[3, 1]], device);
        unit(self, ids, |gpt: &Self, ids| {
            let x = TransformerEncoderInput::new(gpt.words.forward(ids)).causal();
            let x = gpt.norm.forward(gpt.encoder.forward(x));
            gpt.head.forward(x.flatten::<2>(0, 1)).powi_scalar(2).mean()
        })
    }
}

#[test]
fn a_gpt_of_layers_has_the_ideal_memory() {
    let scratch = |world: &World, all: &Barrier| {
        let device = world.device();
        let layer = TransformerEncoderConfig::new(512, 2048, 4, 1).init(&device);
        let x = || TransformerEncoderInput::new(Tensor::ones([1, 2, 512], &device));
        let run = || layer.forward(x()).mean();
        let _ = run().backward();
        let ((), before) = peak(world, all, || ());
        let (_, during) = peak(world, all, run);
        (during - before) / world.size()
    };
    check_model("gpt", Gpt::new, |ranks| {
        measure_model(ranks, Strategy::fsdp(), Gpt::new, Gpt::loss, scratch)
    });
}
