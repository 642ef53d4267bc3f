//! Weights from files into sharded models and back: every strategy, worlds 1 to 3, one device as the
//! oracle, and every way in which files can be wrong.

use crate::alone;
use crate::oracle::{Mlp, Values, cast, ranks, strategies, values};
use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, FloatDType, Tensor};
use burn_dist::launch::Threads;
use burn_dist::weights::{Export, Name, Report, Weights};
use burn_dist::{Destination, Error, Strategy, World};
use std::fs;
use std::path::Path;

/// Names of the parameters in another program, whose matrices are transposed.
fn theirs(path: &str) -> Option<Name> {
    let name = Name::new(format!("net.{path}")).or(path);
    Some(if path.ends_with("weight") {
        name.transposed()
    } else {
        name
    })
}

/// A model whose parameters were drawn with this seed.
fn drawn(seed: u64) -> Mlp {
    let device = Device::flex();
    device.seed(seed);
    let mlp = Mlp::new(2, &device);
    values(&mlp);
    mlp
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(model: &impl Module, folder: &Path) {
    Export::new().named(theirs).write(model, folder).unwrap();
}

fn open(folder: &Path) -> Weights {
    Weights::open(folder).unwrap().named(theirs)
}

fn gathered(world: &World, model: &Mlp) -> burn_dist::Result<Values> {
    Ok(values(&world.full(model, Destination::All)?.unwrap()))
}

fn load(strategy: &Strategy, world: &World, weights: &Weights) -> burn_dist::Result<(Mlp, Report)> {
    let model = Mlp::new(2, &world.device());
    strategy.clone().shard_from(model, world, weights)
}

#[test]
fn every_rank_copies_only_the_bytes_of_its_shards() {
    let _alone = alone();
    let folder = folder();
    let model = drawn(3);
    write(&model, folder.path());
    let expected = values(&model);
    let whole: u64 = expected.values().map(|v| 4 * v.len() as u64).sum();
    for size in 1..=3 {
        for strategy in strategies(size) {
            let plan = strategy.plan(&model, size).unwrap();
            let loaded = ranks(size)
                .run(|world| {
                    let (model, report) = load(&strategy, &world, &open(folder.path()))?;
                    let parts = plan.units().iter().flat_map(|unit| {
                        let rank = world.rank() % unit.ranks;
                        (0..unit.slots.len()).map(move |slot| unit.shard_range(slot, rank).len())
                    });
                    assert_eq!(report.read_bytes, 4 * parts.sum::<usize>() as u64);
                    Ok((gathered(&world, &model)?, report))
                })
                .unwrap();
            let what = format!("{strategy} at world {size}");
            for (values, report) in &loaded {
                assert_eq!(*values, expected, "{what}");
                assert_eq!(report.applied.len(), expected.len(), "{what}");
                assert!(
                    report.missing.is_empty() && report.unused.is_empty(),
                    "{what}"
                );
            }
            // The ranks that share one copy of the model read the files once, all together.
            let read: u64 = loaded.iter().map(|(_, report)| report.read_bytes).sum();
            assert_eq!(
                read,
                whole * (size / plan.shard_group_size()) as u64,
                "{what}"
            );
        }
    }
}

#[test]
fn a_sharded_export_equals_that_of_one_device() {
    let _alone = alone();
    let model = drawn(4);
    let (plain, source) = (folder(), folder());
    write(&model, source.path());
    for most in [u64::MAX, 700] {
        let export = || Export::new().named(theirs).max_file_bytes(most);
        for size in 1..=3 {
            for strategy in strategies(size) {
                // The order in the files follows the units: compare what is read, not the bytes.
                let target = folder();
                ranks(size)
                    .run(|world| {
                        let (model, _) = load(&strategy, &world, &open(source.path()))?;
                        world.export(&model, target.path(), &export())
                    })
                    .unwrap();
                let (other, report) = open(target.path()).apply(drawn(5)).unwrap();
                assert_eq!(values(&other), values(&model), "{strategy} at world {size}");
                assert!(report.unused.is_empty());
                let several = target.path().join("model.safetensors.index.json").exists();
                assert_eq!(several, most == 700);
                for file in fs::read_dir(target.path()).unwrap().flatten() {
                    let name = file.file_name().into_string().unwrap();
                    assert!(name.starts_with("model"), "{name} was left behind");
                }
            }
        }
        export().write(&model, plain.path()).unwrap();
        let (other, _) = open(plain.path()).apply(drawn(5)).unwrap();
        assert_eq!(values(&other), values(&model));
    }
}

#[test]
fn an_export_replaces_an_earlier_one_of_any_number_of_files() {
    let _alone = alone();
    let (folder, first, second) = (folder(), drawn(1), drawn(2));
    let names = || {
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    write(&first, folder.path());
    assert_eq!(names(), ["model.safetensors", "tokenizer.json"]);
    let parts = Export::new().named(theirs).max_file_bytes(1500);
    parts.write(&second, folder.path()).unwrap();
    let found = names();
    assert!(
        found.contains(&"model-00001-of-00002.safetensors".to_string()),
        "{found:?}"
    );
    assert!(
        !found.contains(&"model.safetensors".to_string()),
        "{found:?}"
    );
    let (loaded, _) = open(folder.path()).apply(drawn(9)).unwrap();
    assert_eq!(values(&loaded), values(&second));
    write(&first, folder.path());
    assert_eq!(names(), ["model.safetensors", "tokenizer.json"]);
}

#[test]
fn types_are_converted_both_ways() {
    let _alone = alone();
    let model = drawn(6);
    for dtype in [FloatDType::F64, FloatDType::F16, FloatDType::BF16] {
        let folder = folder();
        let export = Export::new().named(theirs).dtype(dtype);
        export.write(&model, folder.path()).unwrap();
        let expected = values(&cast(cast(model.clone(), dtype), FloatDType::F32));
        let found = ranks(2)
            .run(|world| {
                let (model, _) = load(&Strategy::fsdp(), &world, &open(folder.path()))?;
                assert_eq!(model.first.weight.base().dtype(), burn::tensor::DType::F32);
                gathered(&world, &model)
            })
            .unwrap();
        assert_eq!(found[1], expected, "{dtype:?}");
        let (plain, _) = open(folder.path()).apply(drawn(7)).unwrap();
        assert_eq!(values(&plain), expected, "{dtype:?}");
    }
}

#[test]
fn missing_parameters_are_drawn_equally_on_all_ranks_and_reported() {
    let _alone = alone();
    let folder = folder();
    // Without the blocks, and with a classifier of other width.
    let device = Device::flex();
    let mut other = Mlp::new(0, &device);
    other.last = LinearConfig::new(15, 5).init(&device);
    write(&other, folder.path());
    let strict = Threads::new(2)
        .run(|world| load(&Strategy::fsdp(), &world, &open(folder.path())).map(drop))
        .unwrap_err();
    let message = strict.to_string();
    assert!(
        message.contains("last.weight: wants [3, 15], but net.last.weight"),
        "{message}"
    );
    assert!(message.contains("may_differ"), "{message}");

    let at = |size: usize| {
        ranks(size)
            .seed(11)
            .run(|world| {
                let weights = open(folder.path()).may_differ(["last", "blocks"]);
                let (model, report) = load(&Strategy::fsdp(), &world, &weights)?;
                Ok((gathered(&world, &model)?, report))
            })
            .unwrap()
    };
    let alone = at(1);
    for size in 2..=3 {
        for (found, report) in at(size) {
            assert_eq!(found, alone[0].0, "world {size}");
            assert_eq!(report.applied, ["first.weight", "first.bias", "scale"]);
            assert_eq!(report.missing.len(), 4);
            let paths: Vec<_> = report.mismatched.iter().map(|m| m.path.as_str()).collect();
            assert_eq!(paths, ["last.weight", "last.bias"]);
            assert!(report.unused.is_empty(), "{report}");
        }
    }
    assert_eq!(alone[0].0["first.weight"], values(&other)["first.weight"]);
}

#[test]
fn alternative_names_are_found_and_unused_tensors_listed() {
    let _alone = alone();
    let folder = folder();
    let model = drawn(8);
    Export::new()
        .named(|path: &str| {
            Some(match path {
                "scale" => Name::new("stranger"),
                // The second of the spellings, lying as in theirs.
                _ if path.ends_with("weight") => Name::new(path).transposed(),
                _ => Name::new(path),
            })
        })
        .write(&model, folder.path())
        .unwrap();
    // A body that lacks a parameter is refused, on one device and on every rank, unless that is asked for.
    let weights = open(folder.path());
    let refused = |message: String| {
        assert!(
            message.starts_with("scale: and 0 more parameter(s) are not in"),
            "{message}"
        );
        assert!(message.contains("may_lack_parameters"), "{message}");
    };
    refused(weights.apply(drawn(9)).unwrap_err().to_string());
    let sharded =
        ranks(2).run(|world| load(&Strategy::fsdp(), &world, &open(folder.path())).map(drop));
    refused(sharded.unwrap_err().to_string());
    let weights = weights.may_lack_parameters();
    let (loaded, report) = weights.apply(drawn(9)).unwrap();
    assert_eq!(report.missing, ["scale"]);
    assert_eq!(report.unused, ["stranger"]);
    assert_eq!(
        values(&loaded)["last.weight"],
        values(&model)["last.weight"]
    );
}

/// A layer with running state, which every rank has whole.
#[derive(Module, Debug)]
struct Normed {
    norm: BatchNorm,
    dense: Linear,
}

impl Normed {
    fn new(device: &Device) -> Self {
        Self {
            norm: BatchNormConfig::new(6).init(device),
            dense: LinearConfig::new(6, 4).init(device),
        }
    }
}

#[test]
fn running_state_is_loaded_and_exported_too() {
    let _alone = alone();
    let (source, target) = (folder(), folder());
    let device = Device::flex().autodiff();
    let model = Normed::new(&device);
    // As training would move it.
    struct Move;
    impl ModuleMapper for Move {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|t| Tensor::from_inner(t.inner() + 3.5))
        }
    }
    let model = model.map(&mut Move);
    assert_eq!(values(&model)["norm.running_mean"][0], 3.5);
    Export::new().write(&model, source.path()).unwrap();
    ranks(2)
        .run(|world| {
            let other = Normed::new(&world.device());
            let weights = Weights::open(source.path())?;
            let (other, report) = Strategy::fsdp().shard_from(other, &world, &weights)?;
            assert!(report.missing.is_empty(), "{report}");
            world.export(&other, target.path(), &Export::new())
        })
        .unwrap();
    let weights = Weights::open(target.path()).unwrap();
    let (found, _) = weights.apply(Normed::new(&device)).unwrap();
    assert_eq!(values(&found), values(&model));
}

#[test]
fn ranks_with_different_weights_are_named() {
    let _alone = alone();
    let (usual, odd) = (folder(), folder());
    write(&drawn(1), usual.path());
    let export = Export::new().named(theirs).dtype(FloatDType::BF16);
    export.write(&drawn(1), odd.path()).unwrap();
    let error = Threads::new(3)
        .run(|world| {
            let path = if world.rank() == 2 {
                odd.path()
            } else {
                usual.path()
            };
            load(&Strategy::fsdp(), &world, &open(path)).map(drop)
        })
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("on rank 2 as on rank 0") && message.contains("BF16"),
        "{message}"
    );

    let error = Threads::new(3)
        .run(|world| {
            let weights = match world.rank() {
                1 => Weights::open(usual.path())?
                    .named(|path: &str| theirs(path).filter(|_| path != "scale"))
                    .may_lack_parameters(),
                _ => open(usual.path()),
            };
            load(&Strategy::ddp(), &world, &weights).map(drop)
        })
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("other names") && message.contains("on rank 1"),
        "{message}"
    );
}

#[test]
fn an_error_on_one_rank_is_an_error_on_all() {
    let _alone = alone();
    let folder = folder();
    write(&drawn(1), folder.path());
    let outcomes = std::sync::Mutex::new(Vec::new());
    let _ = Threads::new(2).run(|world| {
        let mut weights = open(folder.path());
        if world.rank() == 1 {
            weights = weights.named(|_: &str| Some(Name::new("nothing")));
        }
        let outcome = load(&Strategy::fsdp(), &world, &weights).map(drop);
        outcomes
            .lock()
            .unwrap()
            .push((world.rank(), outcome.clone()));
        outcome
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|(rank, _)| *rank);
    let [(_, Err(told)), (_, Err(own))] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    assert!(matches!(told, Error::PeerFailed { peer: 1, .. }), "{told}");
    assert!(
        own.to_string().contains("looked for names such as nothing"),
        "{own}"
    );
}

#[test]
fn a_sharded_model_is_not_written_by_one_rank_nor_a_plain_one_by_all() {
    let _alone = alone();
    let folder = folder();
    let error = ranks(2)
        .run(|world| {
            let model = Strategy::fsdp().shard(Mlp::new(1, &world.device()), &world)?;
            Export::new().write(&model, folder.path())
        })
        .unwrap_err();
    assert!(error.to_string().contains("world.export"), "{error}");
    let error = ranks(2)
        .run(|world| world.export(&Mlp::new(1, &world.device()), folder.path(), &Export::new()))
        .unwrap_err();
    assert!(
        error.to_string().contains("no sharded parameter"),
        "{error}"
    );
    let error = Export::new()
        .named(|path: &str| (path != "scale").then(|| Name::new(path)))
        .write(&drawn(1), folder.path())
        .unwrap_err();
    assert!(error.to_string().contains("scale: has no name"), "{error}");
    let error = Export::new()
        .named(|_: &str| Some(Name::new("same")))
        .write(&drawn(1), folder.path())
        .unwrap_err();
    assert!(
        error.to_string().contains("same: is the name of two"),
        "{error}"
    );
}

#[test]
fn a_failed_export_fails_on_all_ranks_and_leaves_no_file() {
    let _alone = alone();
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let error = ranks(2)
        .run(|world| {
            let model = Strategy::fsdp().shard(Mlp::new(1, &world.device()), &world)?;
            world.export(&model, &file, &Export::new())
        })
        .unwrap_err();
    assert!(
        error.to_string().contains("a folder that can be made"),
        "{error}"
    );
}

#[test]
fn integer_tensors_are_refused() {
    let _alone = alone();
    let folder = folder();
    let bytes = [0u8; 8];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1], &bytes);
    let file = folder.path().join("model.safetensors");
    safetensors::serialize_to_file([("scale", view.unwrap())], None, &file).unwrap();
    let error = open(folder.path()).apply(drawn(1)).unwrap_err().to_string();
    assert!(
        error.contains("scale as F64, F32, F16 or BF16, found I64"),
        "{error}"
    );
}
