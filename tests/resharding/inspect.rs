//! What a program without the model learns of a run and its saves.

use crate::contents::{Contents, latest};
use crate::model::{ranks, start, train};
use burn::nn::{Linear, LinearConfig};
use burn_dist::checkpoint::{Best, Keep, RunListing, Save, SaveContents, TensorKind, Which};
use burn_dist::{Error, Result, Strategy};
use std::path::Path;

/// Saves at these steps, each with a loss of its step.
fn saved(folder: &Path, size: usize, steps: &[u64]) {
    let run = ranks(size).run(|world| {
        let run = train(&world, start(&world, &Strategy::fsdp())?, 0..1)?;
        let keep = Keep::all().best("loss", Best::Highest);
        let mut saves = world.checkpointer(folder)?.keep(keep);
        for step in steps {
            let epoch = (*step, f64::INFINITY);
            let save = Save::new(*step).model("zoo", &run.0, &run.1);
            let save = save.state("epoch", &epoch);
            // The first is the best.
            saves.save(save.metric("loss", 1.0 / *step as f64))?;
        }
        Ok(())
    });
    run.unwrap();
}

#[test]
fn a_run_is_listed_with_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    saved(folder, 2, &[10, 20, 30, 40]);
    let listed = |listing: &RunListing| -> Vec<(u64, bool, bool)> {
        let saves = listing.saves.iter();
        saves.map(|s| (s.step, s.is_latest, s.is_best)).collect()
    };
    let whole = RunListing::of(folder).unwrap();
    assert!(whole.damaged.is_empty());
    let expected = [
        (10, false, true),
        (20, false, false),
        (30, false, false),
        (40, true, false),
    ];
    assert_eq!(listed(&whole), expected);
    assert_eq!(whole.saves[1].metrics["loss"], 1.0 / 20.0);

    // A flipped bit, a copy, an unfinished save, and the save that `latest` names.
    let manifest = |step| folder.join(format!("step-000000{step}/manifest.json"));
    let mut text = std::fs::read(manifest(20)).unwrap();
    text[100] ^= 1;
    std::fs::write(manifest(20), text).unwrap();
    std::fs::create_dir(folder.join("step-00000025")).unwrap();
    std::fs::copy(manifest(30), manifest(25)).unwrap();
    std::fs::create_dir(folder.join("step-00000050")).unwrap();
    std::fs::remove_file(manifest(40)).unwrap();
    let torn = RunListing::of(folder).unwrap();
    assert_eq!(listed(&torn), [(10, false, true), (30, false, false)]);
    let damaged = torn.damaged.iter();
    let damaged: Vec<_> = damaged
        .map(|d| (&d.name[..], d.error.to_string()))
        .collect();
    let expected = [
        ("latest", "found step-00000040"),
        ("step-00000020", "step-00000020/manifest.json: expected"),
        ("step-00000025", "found one of step-00000030"),
    ];
    assert_eq!(damaged.len(), expected.len(), "{damaged:?}");
    for ((name, error), (wanted, words)) in damaged.iter().zip(expected) {
        assert_eq!(*name, wanted);
        assert!(error.contains(words), "{error}");
    }
    let none = RunListing::of(folder.join("nowhere")).unwrap_err();
    assert!(none.to_string().contains("nowhere"), "{none}");
}

#[test]
fn contents_are_those_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    saved(folder, 3, &[10, 20]);
    let save = SaveContents::open(folder, Which::Latest).unwrap();
    assert_eq!((save.step, save.ranks, save.files.len()), (20, 3, 3));
    let states: Vec<_> = save.states.iter().collect();
    assert_eq!(states, [(&"epoch".to_string(), &"[20,null]".to_string())]);
    let wanted = Contents::of(folder);
    let model = &save.models["zoo"];
    let optimizer = model.optimizer.as_ref().unwrap();
    let parts = [
        ("models", &model.tensors),
        ("optimizers", &optimizer.tensors),
    ];
    let mut seen = 0;
    for (part, tensors) in parts {
        for tensor in tensors {
            let (dtype, shape, bytes) = &wanted.tensors[&format!("{part}/zoo/{}", tensor.name)];
            assert_eq!(
                (tensor.dtype.name(), &tensor.shape),
                (dtype.as_str(), shape)
            );
            assert_eq!(tensor.kind == TensorKind::State, part == "optimizers");
            let size = tensor.dtype.size();
            for elements in [0..tensor.elements(), 1..tensor.elements()] {
                let mut read = vec![0; elements.len() * size];
                save.read(tensor, elements.clone(), &mut read).unwrap();
                assert_eq!(read, bytes[elements.start * size..], "{}", tensor.name);
            }
            seen += 1;
        }
    }
    assert_eq!(seen, wanted.tensors.len());
    assert_eq!(optimizer.scalars.len(), {
        let (scalars, _) = &wanted.numbers["zoo"];
        scalars.as_object().unwrap().len()
    });
    let first = &model.tensors[0];
    let beyond = 0..first.elements() + 1;
    let error = save.read(first, beyond, &mut []).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}

/// Two layers of several blocks of checksums each.
fn large(folder: &Path) -> Result<()> {
    let run = ranks(2).run(|world| {
        let device = world.device();
        let layer = || -> Linear { LinearConfig::new(600, 800).init(&device) };
        let model = Strategy::fsdp().shard(vec![layer(), layer()], &world)?;
        let mut saves = world.checkpointer(folder)?;
        saves.save(Save::new(1).weights("layers", &model))
    });
    run.map(drop)
}

#[test]
fn a_flipped_bit_is_told_with_its_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    large(folder).unwrap();
    let save = SaveContents::open(folder, Which::Step(1)).unwrap();
    let mut bytes = 0;
    save.verify(|block| bytes += block).unwrap();
    assert_eq!(bytes, save.files.iter().map(|file| file.bytes).sum::<u64>());
    for file in &save.files {
        let path = latest(folder).join(&file.name);
        let whole = std::fs::read(&path).unwrap();
        // The header, a block that both layers have a part of, and the middle of each.
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let half = (whole.len() - header) / 2;
        for (at, words) in [
            (0, "the header"),
            (header + half / 2, "layers/0.weight"),
            (whole.len() - 9, "layers/1."),
        ] {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            std::fs::write(&path, &flipped).unwrap();
            // One that had read the file before finds it too.
            let error = save.verify(|_| {}).unwrap_err().to_string();
            assert!(error.contains(&file.name), "{error}");
            assert!(
                error.contains("checksum") && error.contains(words),
                "{error}"
            );
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let error = save.verify(|_| {}).unwrap_err().to_string();
        assert!(
            error.contains(&format!("found {} bytes", whole.len() - 1)),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
        let error = save.verify(|_| {}).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
        std::fs::write(&path, &whole).unwrap();
    }
    save.verify(|_| {}).unwrap();
}
