//! Saves and optimizers: a save resumes only with the optimizer, settings and states that it was made with.

use super::parameters;
use crate::alone;
use crate::oracle;
use crate::oracle::{Mlp, Values};
use burn::module::{Module, ParamGroup};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdaGradConfig, AdamConfig, AdamWConfig, LionConfig, ModuleOptimizer, RmsPropConfig, SgdConfig,
};
use burn::tensor::{DType, Tensor};
use burn_dist::launch::Threads;
use burn_dist::{Error, Result, Strategy, World};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::path::Path;

type Make = fn() -> ModuleOptimizer;

const KINDS: [(&str, Make); 6] = [
    ("AdamW", || AdamWConfig::new().init()),
    ("Adam", || AdamConfig::new().init()),
    ("SGD", || {
        SgdConfig::new()
            .with_momentum(Some(MomentumConfig::new()))
            .init()
    }),
    ("Lion", || LionConfig::new().init()),
    ("RMSprop", || RmsPropConfig::new().init()),
    ("AdaGrad", || AdaGradConfig::new().init()),
];

/// AdamW for all, and something else for the blocks.
fn groups() -> ModuleOptimizer {
    let blocks = ParamGroup::from_predicate("blocks.");
    AdamWConfig::new()
        .init()
        .with_group(blocks, LionConfig::new().build(), None)
}

fn train(
    world: &World,
    (mut model, mut optimizer): (Mlp, ModuleOptimizer),
    steps: std::ops::Range<usize>,
) -> Result<(Mlp, ModuleOptimizer)> {
    for step in steps {
        let mine = oracle::rows(&oracle::batch(8, 7, step), world.rank(), world.size());
        let x: Tensor<2> = oracle::tensor(&mine, DType::F32, &world.device());
        let grads = world.backward(model.forward(x).powi_scalar(2).mean(), &model)?;
        model = optimizer.step(1e-3, model, grads.into_params());
    }
    Ok((model, optimizer))
}

fn start(world: &World, make: Make) -> Result<(Mlp, ModuleOptimizer)> {
    let model = Strategy::fsdp().shard(Mlp::new(2, &world.device()), world)?;
    let optimizer = world.optimizer(make(), &model)?;
    Ok((model, optimizer))
}

/// Trains three steps, saves, and trains three more.
fn saved(folder: &Path, make: Make) -> Vec<Values> {
    let run = Threads::new(2).seed(5).run(|world| {
        let run = train(&world, start(&world, make)?, 0..3)?;
        world.save(folder, &run.0, &run.1, &3usize)?;
        parameters(&world, &train(&world, run, 3..6)?.0)
    });
    run.unwrap()
}

fn resumed(folder: &Path, make: Make) -> Result<Vec<Values>> {
    Threads::new(2).seed(6).run(|world| {
        let (model, optimizer) = start(&world, make)?;
        let (model, optimizer, step) = world.load(folder, model, optimizer)?;
        parameters(&world, &train(&world, (model, optimizer), step..6)?.0)
    })
}

fn refusal(folder: &Path, make: Make) -> String {
    match resumed(folder, make) {
        Err(error @ Error::File { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn states_of_another_optimizer_are_refused() {
    let _alone = alone();
    for (saved_by, make) in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let straight = saved(folder.path(), make);
        for (kind, other) in KINDS {
            if kind == saved_by {
                assert_eq!(resumed(folder.path(), other).unwrap(), straight, "{kind}");
            } else {
                let error = refusal(folder.path(), other);
                assert!(
                    error.contains("optimizer"),
                    "{saved_by} under {kind}: {error}"
                );
            }
        }
    }
}

#[test]
fn other_settings_of_the_optimizer_are_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path(), || {
        AdamWConfig::new().with_epsilon(1e-8).init()
    });
    let others: [Make; 4] = [
        || AdamWConfig::new().with_epsilon(1e-5).init(),
        || {
            AdamWConfig::new()
                .with_epsilon(1e-8)
                .with_weight_decay(0.1)
                .init()
        },
        || {
            AdamWConfig::new()
                .with_epsilon(1e-8)
                .with_beta_2(0.99)
                .init()
        },
        || {
            AdamWConfig::new()
                .with_epsilon(1e-8)
                .with_amsgrad(true)
                .init()
        },
    ];
    for (at, other) in others.into_iter().enumerate() {
        let error = refusal(folder.path(), other);
        assert!(error.contains("load_record"), "{at}: {error}");
    }
}

#[test]
fn other_parameter_groups_are_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let straight = saved(folder.path(), groups);
    assert_eq!(resumed(folder.path(), groups).unwrap(), straight);
    let error = refusal(folder.path(), || AdamWConfig::new().init());
    assert!(error.contains("blocks."), "{error}");
    // A parameter that another group takes.
    let error = refusal(folder.path(), || {
        let one = ParamGroup::from_predicate("blocks.0.");
        AdamWConfig::new()
            .init()
            .with_group(one, LionConfig::new().build(), None)
    });
    assert!(error.contains("blocks.1."), "{error}");
}

/// The type and the elements of a file's tensors, by name.
type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<u8>)>;

/// Rewrites rank 1's file, and makes all checksums right again.
fn forge(folder: &Path, change: impl Fn(&mut Tensors)) {
    let save = folder.join("step-00000001");
    let file = save.join("rank-00001-of-00002.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (&str, TensorView<'_>)| {
        (name.to_owned(), (view.dtype(), view.data().to_vec()))
    };
    let mut all: Tensors = read.iter().map(tensor).collect();
    change(&mut all);
    let views = all.iter().map(|(name, (dtype, data))| {
        let len = data.len() * 8 / dtype.bitsize();
        (name, TensorView::new(*dtype, vec![len], data).unwrap())
    });
    let written = safetensors::serialize(views, None).unwrap();
    std::fs::write(&file, &written).unwrap();
    let path = save.join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    // One block: it is a small file.
    let sum = format!("{:08x}", crc32fast::hash(&written));
    manifest["files"][1]["bytes"] = written.len().into();
    manifest["files"][1]["sums"] = sum.into();
    manifest["crc32"] = "00000000".into();
    let blank = serde_json::to_string(&manifest).unwrap();
    let sum = format!("{:08x}", crc32fast::hash(blank.as_bytes()));
    let sealed = blank.replacen("\"crc32\":\"00000000", &format!("\"crc32\":\"{sum}"), 1);
    std::fs::write(&path, sealed).unwrap();
}

#[test]
fn states_that_are_missing_or_of_another_size_are_errors() {
    let _alone = alone();
    let adamw: Make = || AdamWConfig::new().init();
    let of = |name: &str| {
        name.starts_with("optimizers/model/last.weight/") && name.ends_with("moment_1")
    };
    type Change = fn(&mut (safetensors::Dtype, Vec<u8>));
    let changes: [(&str, Change); 3] = [
        ("nothing", |_| {}),
        ("the type", |(dtype, _)| *dtype = safetensors::Dtype::I32),
        ("the size", |(_, data)| data.truncate(4)),
    ];
    for (what, change) in changes {
        let folder = tempfile::tempdir().unwrap();
        let straight = saved(folder.path(), adamw);
        forge(folder.path(), |all| {
            let tensor = all.iter_mut().find(|(name, _)| of(name)).unwrap();
            change(tensor.1);
        });
        if what == "nothing" {
            assert_eq!(resumed(folder.path(), adamw).unwrap(), straight);
            continue;
        }
        let error = refusal(folder.path(), adamw);
        assert!(error.contains("last.weight/"), "{what}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path(), adamw);
    forge(folder.path(), |all| all.retain(|name, _| !of(name)));
    let error = refusal(folder.path(), adamw);
    assert!(error.contains("no such tensor"), "{error}");
}

#[test]
fn a_record_changes_the_optimizer_on_purpose() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path(), || AdamWConfig::new().init());
    let outcome = Threads::new(2).run(|world| {
        let (model, former) = start(&world, || AdamWConfig::new().init())?;
        let (model, former, step) = world.load::<_, usize>(folder.path(), model, former)?;
        let new = AdamWConfig::new().with_weight_decay(0.1).init();
        let new = new.load_record(former.to_record());
        let (model, new) = train(&world, (model, new), step..6)?;
        world.save(folder.path(), &model, &new, &6usize)?;
        assert!(!model.devices().is_empty());
        Ok(())
    });
    outcome.unwrap();
    let decayed: Make = || AdamWConfig::new().with_weight_decay(0.1).init();
    resumed(folder.path(), decayed).unwrap();
}
