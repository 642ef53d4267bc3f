//! Files of low-rank adapters: exports, PEFT's layout, and saves.

use crate::alone;
use crate::lora::{ROWS, adamw, all_linear, blocks_and_head, loss, model, trained};
use crate::oracle::{self, Mlp};
use burn::tensor::{DType, Device, FloatDType};
use burn_dist::launch::Threads;
use burn_dist::weights::{Adapters, Export, Name, Weights};
use burn_dist::{Destination, LoraConfig, Strategy, World};

/// Names as PyTorch has them: weights of linear layers lie transposed.
fn name(path: &str) -> Option<Name> {
    let name = Name::new(format!("net.{path}"));
    let is_matrix = path.ends_with("weight");
    Some(if is_matrix { name.transposed() } else { name })
}

#[test]
fn an_export_is_merged_as_a_gathered_model_is() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().to_path_buf();
    let merged = Threads::new(3)
        .run(move |world| {
            let model = trained(&world, blocks_and_head())?;
            world.export(&model, &into, &Export::new().named(name))?;
            world.full(&model, Destination::Chief)
        })
        .unwrap();
    let weights = Weights::open(folder.path()).unwrap().named(name);
    let device = Device::flex();
    let plain = oracle::cast(Mlp::new(3, &device), FloatDType::F64);
    let (read, report) = weights.apply(plain).unwrap();
    assert!(
        report.unused.is_empty() && report.missing.is_empty(),
        "{report}"
    );
    assert_eq!(
        oracle::values(&read),
        oracle::values(merged[0].as_ref().unwrap())
    );
}

#[test]
fn exported_adapters_are_loaded_under_any_strategy_and_number_of_ranks() {
    let _alone = alone();
    for lora in [all_linear(), blocks_and_head()] {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().to_path_buf();
        let expected = Threads::new(3)
            .run(move |world| {
                let model = trained(&world, lora.clone())?;
                world.export_adapters(&model, &into, &Export::new().named(name))?;
                world.full_with_adapters(&model, Destination::Chief)
            })
            .unwrap();
        let expected = oracle::values(expected[0].as_ref().unwrap());
        for (size, strategy) in [
            (1, Strategy::single()),
            (2, Strategy::ddp()),
            (3, Strategy::zero2()),
            (4, Strategy::hybrid(2)),
            (4, Strategy::fsdp()),
        ] {
            let from = folder.path().to_path_buf();
            let found = Threads::new(size)
                .run(move |world| {
                    let adapters = Adapters::open(&from)?.named(name);
                    let strategy = strategy.clone().lora(adapters.config(&model())?);
                    let model = strategy.shard(model(), &world)?;
                    let model = world.load_adapters(model, &adapters)?;
                    // It trains on, from the same values.
                    let mine = oracle::rows(&oracle::batch(ROWS, 7, 1), world.rank(), size);
                    let x = oracle::tensor(&mine, DType::F64, &world.device());
                    world.backward(loss(&model, x), &model)?;
                    world.full_with_adapters(&model, Destination::Chief)
                })
                .unwrap();
            assert_eq!(oracle::values(found[0].as_ref().unwrap()), expected);
        }
    }
}

#[test]
fn adapters_that_do_not_belong_to_a_model_are_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_path_buf();
    let into = path.clone();
    Threads::new(2)
        .run(move |world| {
            let model = trained(&world, all_linear())?;
            world.export_adapters(&model, &into, &Export::new().named(name))
        })
        .unwrap();
    let load = |strategy: Strategy, other_base: bool| {
        let from = path.clone();
        let load = move |world: World| {
            let adapters = Adapters::open(&from)?.named(name);
            let begin = if other_base {
                oracle::cast(Mlp::new(3, &world.device()), FloatDType::F64)
            } else {
                model()
            };
            let model = strategy.clone().shard(begin, &world)?;
            world.load_adapters(model, &adapters).map(|_| ())
        };
        Threads::new(2).run(load).map_err(|e| e.to_string())
    };
    assert!(load(Strategy::fsdp().lora(all_linear()), false).is_ok());
    for (strategy, other_base, expected) in [
        (
            Strategy::fsdp(),
            false,
            &["no adapters", "Strategy::lora"][..],
        ),
        (
            Strategy::fsdp().lora(LoraConfig::new(2, 4.0)),
            false,
            &["scale", "2.5", "2"],
        ),
        (
            Strategy::fsdp().lora(LoraConfig::new(1, 2.5)),
            false,
            &["first.weight.lora.a", "[1, 7]", "[2, 7]"],
        ),
        (
            Strategy::fsdp().lora(all_linear().targets(["blocks.*"])),
            false,
            &["nothing but the adapters", "first"],
        ),
        (
            Strategy::fsdp().lora(all_linear().modules_to_save(["last"])),
            false,
            &["last.weight", "not in"],
        ),
        (
            Strategy::fsdp().lora(all_linear()),
            true,
            &["digest", "for_any_base"],
        ),
    ] {
        let found = load(strategy, other_base).unwrap_err();
        for words in expected {
            assert!(found.contains(words), "{words}: {found}");
        }
    }
    // A name that no parameter of the model has.
    let unnamed = Adapters::open(&path).unwrap().config(&model());
    assert!(unnamed.unwrap_err().to_string().contains("Adapters::named"));
}

#[test]
fn a_save_is_resumed_under_another_strategy_and_number_of_ranks() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let steps = |size: usize, strategy: Strategy, from: usize, to: usize| {
        let saves = folder.path().to_path_buf();
        let run = move |world: World| {
            let strategy = strategy.clone().lora(all_linear());
            // Burn loads states as f32.
            let begin = oracle::cast(model(), FloatDType::F32);
            let mut model = strategy.shard(begin, &world)?;
            let mut optimizer = world.optimizer(adamw(), &model)?;
            if from > 0 {
                let at: usize;
                (model, optimizer, at) = world.load(&saves, model, optimizer)?;
                assert_eq!(at, from);
            }
            for step in from..to {
                let batch = oracle::batch(ROWS, 7, step);
                let mine = oracle::rows(&batch, world.rank(), size);
                let x = oracle::tensor(&mine, DType::F32, &world.device());
                let grads = world.backward(loss(&model, x), &model)?.into_params();
                model = optimizer.step(1e-2, model, grads);
            }
            if from == 0 {
                world.save(&saves, &model, &optimizer, &to)?;
            }
            let whole = world.full_with_adapters(&model, Destination::Chief)?;
            Ok(whole.map(|whole| oracle::values(&whole)))
        };
        Threads::new(size).run(run).unwrap().remove(0).unwrap()
    };
    steps(3, Strategy::fsdp(), 0, 2);
    // What the first run has drawn goes on in all others.
    let read = steps(3, Strategy::fsdp(), 2, 2);
    let expected = steps(3, Strategy::fsdp(), 2, 5);
    for (size, strategy) in [
        (1, Strategy::single()),
        (2, Strategy::zero1()),
        (4, Strategy::hybrid(2)),
    ] {
        let what = format!("{strategy} over {size}");
        assert_eq!(steps(size, strategy.clone(), 2, 2), read, "{what}");
        let found = steps(size, strategy, 2, 5);
        oracle::close(&what, &found, &expected, 1e-5);
    }
}
