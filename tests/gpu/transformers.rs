//! ViT and BERT train on the GPU as on the CPU, from the reference's weights.

use crate::golden::Golden;
use crate::golden::subject::{BertLmTiny, BertTiny, DistilTiny, Subject, VitTiny};
use crate::place::{gpu, ranks};
use crate::{oracle, reference};
use burn::tensor::DType;
use burn_dist::Strategy;
use burn_dist::launch::{DeviceKind, Threads};

/// Of a tensor's largest element: two devices order their sums differently.
const FIRST_STEP: f64 = 1e-3;

/// Loss, gradients, norms and parameters of the reference's steps.
fn check<S: Subject>() {
    let Some((kind, _alone)) = gpu() else { return };
    let golden = S::golden();
    let clip = Some(golden.number("clip"));
    let run = |ranks: &Threads, strategy: &Strategy| {
        let figures = reference::run::<S>(&golden, ranks, strategy, DType::F32, clip);
        compared(&golden, figures)
    };
    let expected = run(&ranks(1, DeviceKind::Cpu), &Strategy::single());
    let found = run(&ranks(1, kind), &Strategy::single());
    oracle::close("one plain GPU", &found, &expected, FIRST_STEP);
    for size in 1..=2 {
        for strategy in [Strategy::ddp(), Strategy::fsdp(), Strategy::hybrid(1)] {
            for strategy in [strategy.clone(), strategy.recompute(true)] {
                let what = format!("{strategy} at world {size}");
                let found = run(&ranks(size, kind), &strategy);
                oracle::close(&what, &found, &expected, FIRST_STEP);
            }
        }
    }
}

/// What two devices have to agree on. A parameter whose true gradient is zero is stepped by its
/// rounding, so neither its gradient nor its steps say anything.
fn compared(golden: &Golden, figures: oracle::Values) -> oracle::Values {
    let zero = golden.zero_grad();
    let says = |figure: &str| !zero.iter().any(|name| figure.ends_with(name));
    let after = |figure: &str| figure.starts_with("after/");
    let mut figures = figures.into_iter();
    let mut kept = oracle::Values::new();
    while let Some((figure, values)) = figures.next() {
        // AdamW's first steps are as large for a small gradient as for a large one.
        if says(&figure) && !after(&figure) {
            kept.insert(figure, values);
        }
    }
    kept
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
