//! Saves: resuming bit for bit, a kill while saving, and invalid saves.

mod folders;
mod numbers;
mod optimizers;

use crate::alone;
use crate::oracle;
use crate::oracle::{Mlp, Values};
use burn::module::Module;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::{DType, Device, Tensor};
use burn_dist::launch::Threads;
use burn_dist::{Destination, Error, Result, Strategy, World};
use std::path::Path;

fn start(strategy: &Strategy, world: &World) -> Result<(Mlp, ModuleOptimizer)> {
    let model = strategy
        .clone()
        .shard(Mlp::new(2, &world.device()), world)?;
    let optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
    Ok((model, optimizer))
}

fn train(
    world: &World,
    (mut model, mut optimizer): (Mlp, ModuleOptimizer),
    steps: std::ops::Range<usize>,
) -> Result<(Mlp, ModuleOptimizer)> {
    for step in steps {
        let mine = oracle::rows(&oracle::batch(12, 7, step), world.rank(), world.size());
        let x: Tensor<2> = oracle::tensor(&mine, DType::F32, &world.device());
        let grads = world.backward(model.forward(x).powi_scalar(2).mean(), &model)?;
        model = optimizer.step(1e-2, model, grads.clip_norm(1.0)?.grads);
    }
    Ok((model, optimizer))
}

fn parameters(world: &World, model: &Mlp) -> Result<Values> {
    Ok(oracle::values(
        &world.full(model, Destination::All)?.unwrap(),
    ))
}

fn strategies() -> [Strategy; 5] {
    [
        Strategy::ddp(),
        Strategy::zero1(),
        Strategy::zero2(),
        Strategy::fsdp(),
        Strategy::hybrid(1),
    ]
}

/// A run that resumes from the save in the folder, if there is one, and saves.
fn save_once(folder: &Path, ranks: usize, step: usize) {
    Threads::new(ranks)
        .run(|world| {
            let (mut model, mut optimizer) = start(&Strategy::fsdp(), &world)?;
            if world.has_save(folder)? {
                (model, optimizer, _) = world.load::<_, usize>(folder, model, optimizer)?;
            }
            world.save(folder, &model, &optimizer, &step)
        })
        .unwrap();
}

fn load(folder: &Path, ranks: usize) -> Result<Vec<usize>> {
    Threads::new(ranks).run(|world| {
        let (model, optimizer) = start(&Strategy::fsdp(), &world)?;
        Ok(world.load(folder, model, optimizer)?.2)
    })
}

#[test]
fn a_resumed_run_is_the_same_bit_for_bit() {
    let _alone = alone();
    for ranks in 1..=3 {
        for strategy in strategies() {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let straight = Threads::new(ranks)
                .seed(7)
                .run(|world| {
                    let run = train(&world, start(&strategy, &world)?, 0..3)?;
                    world.save(folder, &run.0, &run.1, &("epoch", 3))?;
                    parameters(&world, &train(&world, run, 3..6)?.0)
                })
                .unwrap();
            let resumed = Threads::new(ranks)
                .seed(8)
                .run(|world| {
                    let (model, optimizer) = start(&strategy, &world)?;
                    let (model, optimizer, state): (_, _, (String, usize)) =
                        world.load(folder, model, optimizer)?;
                    assert_eq!(state, ("epoch".to_string(), 3));
                    parameters(&world, &train(&world, (model, optimizer), 3..6)?.0)
                })
                .unwrap();
            assert_eq!(straight, resumed, "{strategy} at world {ranks}");
        }
    }
}

#[test]
fn a_killed_save_leaves_the_one_before() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_once(folder, 2, 1);
    // What a kill between the rank files and the manifest leaves behind.
    let half = folder.join("step-00000002");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("unfinished-or-removed"), "").unwrap();
    std::fs::write(half.join("rank-00000-of-00002.safetensors"), b"half a fi").unwrap();
    std::fs::write(half.join("manifest.new"), b"{\"format\":").unwrap();
    assert_eq!(load(folder, 2).unwrap(), [1, 1]);
    save_once(folder, 2, 2);
    assert_eq!(load(folder, 2).unwrap(), [2, 2]);
    let saves = std::fs::read_dir(folder).unwrap().flatten();
    let saves = saves.filter(|e| e.file_name().to_string_lossy().starts_with("step-"));
    assert_eq!(saves.count(), 1, "older saves are gone");
}

#[test]
fn invalid_saves_are_errors_that_name_the_file() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let message = |ranks| match load(folder, ranks) {
        Err(error @ Error::File { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(message(2).contains("a complete save"), "{}", message(2));
    save_once(folder, 2, 1);
    assert_eq!(load(folder, 3).unwrap(), [1; 3]);
    let file = folder.join("step-00000001/rank-00001-of-00002.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    // Whatever bit it is: of the header, of the blanks behind it, of the elements.
    for at in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&file, &flipped).unwrap();
        let found = message(2 + at % 2);
        let is_clear = found.contains("rank-00001") && found.contains("checksum");
        assert!(is_clear || found.contains("header"), "byte {at}: {found}");
    }
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(message(2).contains("rank-00001"), "{}", message(2));
    std::fs::remove_file(&file).unwrap();
    assert!(message(2).contains("rank-00001"), "{}", message(2));
    std::fs::write(folder.join("step-00000001/manifest.json"), b"{}").unwrap();
    assert!(message(2).contains("manifest"), "{}", message(2));
    std::fs::write(folder.join("latest"), b"../elsewhere").unwrap();
    assert!(message(2).contains("the name of a save"), "{}", message(2));
}

#[test]
fn a_save_of_another_model_is_refused_by_name() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    save_once(folder.path(), 2, 1);
    let error = Threads::new(2)
        .run(|world| {
            let model = Strategy::fsdp().shard(Mlp::new(3, &world.device()), &world)?;
            let optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
            world
                .load::<_, usize>(folder.path(), model, optimizer)
                .map(drop)
        })
        .unwrap_err();
    assert!(error.to_string().contains("blocks.2"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_fails_on_every_rank() {
    let _alone = alone();
    let folder = tempfile::NamedTempFile::new().unwrap();
    let error = Threads::new(2)
        .run(|world| {
            let (model, optimizer) = start(&Strategy::fsdp(), &world)?;
            let error = world.save(folder.path().join("x"), &model, &optimizer, &0);
            let error = error.expect_err("a file is no folder");
            assert_eq!(
                matches!(error, Error::PeerFailed { peer: 0, .. }),
                !world.is_chief()
            );
            // The ranks are still in the same order of collectives.
            world.comm().barrier(&"after".into())?;
            Err::<(), _>(error)
        })
        .unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
}

#[test]
fn a_full_model_is_a_plain_module() {
    let _alone = alone();
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.bpk");
    let trained = Threads::new(3)
        .run(|world| {
            let (model, _) = train(&world, start(&Strategy::fsdp(), &world)?, 0..2)?;
            let full = world.full(&model, Destination::Chief)?;
            assert_eq!(full.is_some(), world.is_chief());
            if let Some(full) = full {
                full.valid().save_file(&file).unwrap();
            }
            parameters(&world, &model)
        })
        .unwrap();
    let loaded = Mlp::new(2, &device).load_file(&file);
    assert_eq!(oracle::values(&loaded), trained[0]);
    // It can be sharded again.
    let again = Threads::new(2).run(|world| {
        let model = Mlp::new(2, &world.device()).load_file(&file);
        parameters(&world, &Strategy::fsdp().shard(model, &world)?)
    });
    assert_eq!(again.unwrap()[1], trained[0]);
}

#[test]
fn folders_named_like_saves_are_kept() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let kept = ["step-best", "step-1", "step-0000001", "step-00000001"]
        .map(|name| folder.path().join(name));
    kept.iter().for_each(|k| std::fs::create_dir(k).unwrap());
    save_once(folder.path(), 2, 1);
    save_once(folder.path(), 2, 2);
    assert!(kept.iter().all(|k| k.exists()));
}
