//! Low-rank adapters: no weight with its adapters stays on the tape.

use crate::allocator::peak;
use crate::{EVEN, Net, input, measure_model, scratch, within};
use burn::module::Module;
use burn::tensor::quantization::{QuantScheme, QuantValue, ScaleDtype};
use burn::tensor::{Device, Tensor};
use burn_dist::{LoraConfig, Strategy, World};
use std::sync::Barrier;

/// A model whose blocks are frozen, and whose head trains.
fn frozen(device: &Device) -> Net {
    let mut net = EVEN.init(device);
    for block in &mut net.blocks {
        *block = block.clone().freeze();
    }
    net
}

/// What the kernel of the product of two factors takes for itself.
fn of_product(world: &World, all: &Barrier) -> usize {
    let ones = |shape: [usize; 2]| Tensor::<2>::ones(shape, &Device::flex());
    let (a, b) = (ones([EVEN.width, 8]), ones([8, EVEN.inner]));
    let ((), before) = peak(world, all, || ());
    let (_, during) = peak(world, all, || a.clone().matmul(b.clone()));
    ((during - before) / world.size()).saturating_sub(4 * EVEN.width * EVEN.inner)
}

#[test]
fn adapters_need_what_frozen_weights_need() {
    let lora = LoraConfig::new(8, 16.0).modules_to_save(["left", "right"]);
    check(&lora, 1);
}

/// The dense weight that is made of a quantized one lives while a layer computes with it, beside its sum with the adapters.
#[test]
fn quantized_weights_are_dense_only_while_a_layer_computes() {
    let lora = LoraConfig::new(8, 16.0).modules_to_save(["left", "right"]);
    let scheme = QuantScheme::default().with_value(QuantValue::Q4S);
    let lora = lora.quantize_base(scheme.per_block([64], ScaleDtype::F32));
    check(&lora, 2);
}

/// Compares with frozen weights without adapters; of so many dense weights a layer computes with one.
fn check(lora: &LoraConfig, dense: usize) {
    let scratch = |world: &World, all: &Barrier| scratch(EVEN, world, all) + of_product(world, all);
    for ranks in 2..=3 {
        for tracked in [true, false] {
            // Gradients flow through all blocks, as they do where the first layer trains.
            let loss = |net: &Net, device: &Device| {
                let x = input(EVEN, device);
                net.loss(if tracked { x.require_grad() } else { x })
            };
            let through = |net: &Net, device: &Device| net.loss(input(EVEN, device).require_grad());
            // The worst moment is one in which ranks do the same at once, which not every run has.
            let plain = || measure_model(ranks, Strategy::fsdp(), frozen, through, scratch);
            let backward = (0..3).map(|_| plain().backward).max().unwrap();
            let strategy = Strategy::fsdp().lora(lora.clone());
            let plan = strategy.plan(&frozen(&Device::flex()), ranks).unwrap();
            let found = measure_model(ranks, strategy, frozen, loss, scratch);
            let what = |when: &str| format!("adapters at world {ranks}, {when}, tracked {tracked}");
            // What is frozen of a unit and its adapters, gathered for this one and the next.
            let of_unit = |path: &str| -> usize {
                let parts = plan.units().iter().filter(|u| u.path == path);
                parts.map(|u| u.bytes()).sum()
            };
            // While a layer computes with it, a weight with its adapters is beside the gathered one.
            let weight = dense * 4 * EVEN.width * EVEN.inner;
            let gathered = 2 * of_unit("blocks.0") + of_unit("");
            let forward = plan.memory().parameters + gathered + weight + found.scratch;
            within(&what("forward"), found.forward, forward);
            within(&what("backward"), found.backward, backward);
            for after in found.after {
                within(&what("after a step"), after, plan.memory().parameters);
            }
        }
    }
}
