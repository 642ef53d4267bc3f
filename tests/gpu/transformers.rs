//! ViT and BERT train on the GPU as on the CPU, from the reference's weights.

use crate::golden::Golden;
use crate::golden::subject::{BertLmTiny, BertTiny, DistilTiny, Subject, VitTiny};
use crate::place::{gpu, ranks};
use crate::{oracle, reference};
use burn::tensor::DType;
use burn_dist::Strategy;
use burn_dist::launch::{DeviceKind, Threads};

/// Ranks against one plain GPU, as a share of a tensor's largest element.
const RANKS: f64 = 1e-4;
/// A GPU against the CPU: its `erf` and `exp` are approximations of their own.
const DEVICES: f64 = 5e-3;

/// Loss, gradients, norms and parameters of the reference's steps.
fn check<S: Subject>() {
    let Some((kind, _alone)) = gpu() else { return };
    let golden = S::golden();
    let clip = Some(golden.number("clip"));
    let run = |ranks: &Threads, strategy: &Strategy| {
        let figures = reference::run::<S>(&golden, ranks, strategy, DType::F32, clip);
        compared(&golden, figures)
    };
    let cpu = run(&ranks(1, DeviceKind::Cpu), &Strategy::single());
    let expected = run(&ranks(1, kind), &Strategy::single());
    oracle::close("one plain GPU", &expected, &cpu, DEVICES);
    for size in 1..=2 {
        for strategy in [Strategy::ddp(), Strategy::fsdp(), Strategy::hybrid(1)] {
            for strategy in [strategy.clone(), strategy.recompute(true)] {
                let what = format!("{strategy} at world {size}");
                let found = run(&ranks(size, kind), &strategy);
                oracle::close(&what, &found, &expected, RANKS);
            }
        }
    }
}

/// What two devices have to agree on. A parameter whose true gradient is zero is stepped by its
/// rounding, so neither its gradient nor its steps say anything.
fn compared(golden: &Golden, figures: oracle::Values) -> oracle::Values {
    let zero = golden.zero_grad();
    let says = |figure: &str| !zero.iter().any(|name| figure.ends_with(name));
    // AdamW's first steps are as large for a small gradient as for a large one.
    let after = |figure: &str| figure.starts_with("after/");
    let all = figures.into_iter();
    all.filter(|(figure, _)| says(figure) && !after(figure))
        .collect()
}

#[test]
fn a_classifier_of_images() {
    check::<VitTiny>();
}

#[test]
fn a_classifier_of_texts() {
    check::<BertTiny>();
}

#[test]
fn a_distilled_classifier_of_texts() {
    check::<DistilTiny>();
}

#[test]
fn a_masked_language_model_with_a_tied_decoder() {
    check::<BertLmTiny>();
}
