//! The two public studies as axes, at a size for two cores and at their own.

use super::{Axes, Device, Link, Model, Precision, Program, Recipe, Strategy};
use crate::record::Setup;

/// How large a study is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// For two cores and a few minutes: small models on made-up data.
    TwoCores,
    /// The studies' models and data, for GPUs.
    Full,
}

fn model(program: Program, size: &str) -> Model {
    let size = size.into();
    Model { program, size }
}

fn setups(all: &[(usize, usize)]) -> Vec<Setup> {
    let setup = |&(nodes, ranks_per_node)| Setup {
        nodes,
        ranks_per_node,
    };
    all.iter().map(setup).collect()
}

fn strategies(names: &[&str]) -> Vec<Strategy> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Study A: ViT under DDP and FSDP in half precision, on one node of two ranks and on two nodes of one.
///
/// The study trained without clipping under FSDP, which it could not do there, and tested on one node alone; here both
/// are as they should be.
pub fn study_a(scale: Scale) -> Vec<Axes> {
    let (size, recipe) = match scale {
        Scale::TwoCores => {
            let recipe = Recipe {
                epochs: 1,
                train_size: Some(1536),
                test_size: Some(256),
                trace: Some("4..6".into()),
                ..Recipe::default()
            };
            ("cifar", recipe)
        }
        Scale::Full => {
            let recipe = Recipe {
                epochs: 1,
                vit_data: Some("cifar-10-batches-bin".into()),
                device: Device::Cuda,
                ..Recipe::default()
            };
            ("base", recipe)
        }
    };
    let recipe = Recipe {
        schedule: "cosine".into(),
        warmup: 0.1,
        ..recipe
    };
    let of = |setup, batch| Axes {
        part: "a".into(),
        models: vec![model(Program::Vit, size)],
        strategies: strategies(&["ddp", "fsdp"]),
        setups: setups(&[setup]),
        batches: vec![batch],
        rates: vec![1e-3],
        precisions: vec![Precision::F16],
        links: vec![None],
        recipe: recipe.clone(),
    };
    vec![of((1, 2), 48), of((2, 1), 96)]
}

/// The experiments of study B with these numbers: 1 varies the batch, 2 the learning rate, 3 the link.
///
/// The rates at the small size are those at which small models learn from nothing, ten apart as in the study, which
/// tuned pretrained ones.
pub fn study_b(experiments: &[usize], scale: Scale) -> Vec<Axes> {
    let numbers = [1, 2, 3].into_iter().filter(|n| experiments.contains(n));
    numbers.map(|number| experiment_b(number, scale)).collect()
}

fn experiment_b(number: usize, scale: Scale) -> Axes {
    let full = scale == Scale::Full;
    let (bert, vit) = match scale {
        Scale::TwoCores => (model(Program::Bert, "mini"), model(Program::Vit, "tiny")),
        Scale::Full => (model(Program::Bert, "distil"), model(Program::Vit, "base")),
    };
    let recipe = match scale {
        Scale::TwoCores => Recipe {
            train_size: Some(2048),
            test_size: Some(512),
            // What learns from nothing parts with high rates at once, which pretrained models bear.
            warmup: 0.1,
            ..Recipe::default()
        },
        Scale::Full => Recipe {
            train_size: Some(8000),
            test_size: Some(2000),
            max_length: Some(500),
            bert_data: Some("ag_news_csv".into()),
            bert_from: Some("distilbert-base-uncased".into()),
            vit_data: Some("food101".into()),
            vit_from: Some("vit-base-patch16-224-in21k".into()),
            device: Device::Cuda,
            ..Recipe::default()
        },
    };
    let common = Axes {
        part: format!("b{number}"),
        models: vec![bert, vit],
        strategies: strategies(&["ddp"]),
        setups: setups(if full {
            &[(1, 1), (1, 4), (2, 2)]
        } else {
            &[(1, 1), (1, 2), (2, 1)]
        }),
        batches: vec![16],
        rates: vec![if full { 2e-5 } else { 1e-3 }],
        precisions: vec![Precision::F32],
        links: vec![None],
        recipe: Recipe {
            accumulate: 4,
            ..recipe
        },
    };
    let epochs = |epochs| Recipe {
        epochs,
        ..common.recipe.clone()
    };
    match number {
        1 => Axes {
            models: vec![common.models[0].clone()],
            // Between the rates of experiment 2, as steps of 4 samples bear less than those of 128.
            rates: vec![if full { 2e-5 } else { 5e-4 }],
            batches: vec![1, 4, 16],
            recipe: epochs(if full { 2 } else { 1 }),
            ..common
        },
        2 => Axes {
            rates: if full {
                vec![2e-4, 2e-5]
            } else {
                vec![1e-3, 1e-4]
            },
            recipe: epochs(5),
            ..common
        },
        _ => Axes {
            setups: setups(&[(2, 1)]),
            links: vec![Some(Link::near()), Some(Link::far())],
            recipe: epochs(if full { 2 } else { 1 }),
            ..common
        },
    }
}
