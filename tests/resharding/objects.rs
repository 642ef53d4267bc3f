//! Saves in object stores: the local one, in which any reader of files sees what a save holds, and one in memory.

use crate::contents::Contents;
use crate::model::{Run, distance, load, parameters, ranks, save, start, train};
use burn_dist::checkpoint::object_store::local::LocalFileSystem;
use burn_dist::checkpoint::{Best, Keep, OpenSave, Save, Which, register_object_store};
use burn_dist::{Result, Strategy};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// An object store in a folder, and its URL.
fn local(name: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let url = format!("local://{name}");
    register_object_store(&url, Arc::new(store.with_fsync(true))).unwrap();
    (folder, format!("{url}/runs/1"))
}

fn objects(folder: &Path) -> Vec<String> {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => visit(&entry.path(), found),
                false => found.push(entry.path()),
            }
        }
    }
    let run = folder.join("runs/1");
    let mut found = Vec::new();
    visit(&run, &mut found);
    let names = found.iter().map(|path| path.strip_prefix(&run).unwrap());
    let mut names: Vec<String> = names.map(|name| name.display().to_string()).collect();
    names.sort();
    names
}

fn part(run: &Run, step: u64) -> Save<'_> {
    Save::new(step).model("model", &run.0, &run.1)
}

/// Saves with one rank at these steps.
fn saved(url: &str, steps: &[u64]) -> Result<()> {
    let run = ranks(1).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        let mut saves = world.checkpointer(url)?.keep(Keep::all());
        steps
            .iter()
            .try_for_each(|step| saves.save(part(&run, *step)))
    });
    run.map(|_| ())
}

#[test]
fn an_object_store_holds_what_a_folder_holds_and_loads_on_any_ranks() {
    let strategies = [Strategy::fsdp(), Strategy::ddp(), Strategy::zero1()];
    for (case, strategy) in strategies.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let (objects, url) = local(&format!("same-{case}"));
        for size in [1, 3] {
            let written = ranks(size).run(|world| {
                let run = train(&world, start(&world, strategy)?, 0..2)?;
                let url = format!("{url}-{size}");
                save(&world, folder.path().join(size.to_string()), &run, 2)?;
                save(&world, &url, &run, 2)?;
                assert!(world.has_save(&url)?);
                Ok(())
            });
            written.unwrap();
            let name = format!("runs/1-{size}/step-00000001");
            let found = Contents::of_save(&objects.path().join(name));
            let wanted = Contents::of(&folder.path().join(size.to_string()));
            found.expect(&wanted, &format!("{strategy} on {size}"));
            for (other, strategies) in [
                (1, &strategies[1..2]),
                (2, &strategies[..]),
                (4, &strategies[..1]),
            ] {
                for strategy in strategies {
                    let both = ranks(other).run(|world| {
                        let fresh = || start(&world, strategy);
                        let folder = folder.path().join(size.to_string());
                        let (a, _) = load(&world, folder, fresh()?)?;
                        let (b, step) = load(&world, format!("{url}-{size}"), fresh()?)?;
                        assert_eq!(step, 2);
                        let a = train(&world, a, 2..3)?;
                        let b = train(&world, b, 2..3)?;
                        let (a, b) = (parameters(&world, &a.0)?, parameters(&world, &b.0)?);
                        assert_eq!(distance(&a, &b), 0.0);
                        Ok(())
                    });
                    both.unwrap();
                }
            }
        }
    }
}

#[test]
fn a_large_file_goes_in_parts_and_comes_back() {
    use burn::nn::LinearConfig;
    use burn::optim::AdamWConfig;
    let url = "memory://large/run";
    // 17 MB of weights and twice that of states, in two files: more than one part and one request.
    let run = ranks(2).run(|world| {
        let layer = || LinearConfig::new(1460, 1460).init(&world.device());
        let layer_a = Strategy::fsdp().shard(layer(), &world)?;
        let optim = world.optimizer(AdamWConfig::new().init(), &layer_a)?;
        world.save(url, &layer_a, &optim, &())?;
        let layer_b = Strategy::fsdp().shard(layer(), &world)?;
        let optim = world.optimizer(AdamWConfig::new().init(), &layer_b)?;
        let (layer_b, _, ()) = world.load(url, layer_b, optim)?;
        let all = burn_dist::Destination::All;
        let (a, b) = (world.full(&layer_a, all)?, world.full(&layer_b, all)?);
        assert_eq!(
            a.unwrap().weight.val().into_data(),
            b.unwrap().weight.val().into_data()
        );
        world.open_save(url, Which::Latest)?.verify()
    });
    run.unwrap();
}

#[test]
fn the_best_and_the_latest_are_found_by_the_manifests() {
    let (folder, url) = local("keeping");
    let stranger = folder.path().join("runs/1/step-00000011");
    std::fs::create_dir_all(&stranger).unwrap();
    std::fs::write(stranger.join("notes"), "not ours").unwrap();
    let run = ranks(2).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        let keep = Keep::last(2)?.best("loss", Best::Lowest);
        let mut saves = world.checkpointer(&url)?.keep(keep);
        for (step, loss, kept, best) in [
            (10, 3.0, "10", 10),
            (20, f64::NAN, "10 20", 10),
            (30, 1.0, "20 30", 30),
            (40, 2.0, "30 40", 30),
            (5, 2.5, "30 40 05", 30),
            (6, 2.0, "30 05 06", 30),
        ] {
            saves.save_in_background(part(&run, step).metric("loss", loss))?;
            assert_eq!(saves.wait()?, Some(step));
            assert_eq!(world.open_save(&url, Which::Best)?.step(), best);
            // Also one of a lower step than another's: the last complete one.
            assert_eq!(world.open_save(&url, Which::Latest)?.step(), step);
            if world.is_chief() {
                let manifests = objects(folder.path()).into_iter();
                let manifests: Vec<String> = manifests
                    .filter(|name| name.ends_with("manifest.json"))
                    .collect();
                let mut kept: Vec<String> = kept
                    .split(' ')
                    .map(|step| format!("step-000000{step}/manifest.json"))
                    .collect();
                kept.sort();
                assert_eq!(manifests, kept);
            }
        }
        Ok(())
    });
    run.unwrap();
    let left = objects(folder.path());
    assert!(left.contains(&"step-00000011/notes".to_string()));
    // Three saves of three objects, the run's name, and the notes.
    assert_eq!(left.len(), 3 * 3 + 2, "{left:?}");
}

#[test]
fn what_an_interrupted_save_has_left_is_removed_and_cannot_be_completed() {
    let (folder, url) = local("interrupted");
    saved(&url, &[1]).unwrap();
    let left = folder.path().join("runs/1/step-00000002");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("unfinished-or-removed"), "").unwrap();
    std::fs::write(left.join("rank-00000-of-00001.safetensors"), "half").unwrap();
    assert_eq!(OpenSave::new(&url, Which::Latest).unwrap().step(), 1);
    let run = ranks(1).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        world.open_save(&url, Which::Latest)?.finish()?;
        let mut saves = world.checkpointer(&url)?.keep(Keep::all());
        // The parts were not all used, so the folder's save is another run's.
        let error = saves.save(part(&run, 2)).unwrap_err().to_string();
        assert!(error.contains("another run"), "{error}");
        let mut open = world.open_save(&url, Which::Latest)?;
        open.model("model", run.0, run.1)?;
        open.finish()?;
        let run = start(&world, &Strategy::fsdp())?;
        saves.save(part(&run, 2))
    });
    run.unwrap();
    // An empty manifest is there for good: whoever has begun that save cannot complete it.
    let manifest = std::fs::metadata(left.join("manifest.json")).unwrap();
    assert_eq!(
        (manifest.len(), std::fs::read_dir(&left).unwrap().count()),
        (0, 1)
    );
    let open = OpenSave::new(&url, Which::Latest).unwrap();
    assert_eq!(open.step(), 2);
    assert!(open.verify().is_ok());
    assert!(
        folder
            .path()
            .join("runs/1/step-00000002.2/manifest.json")
            .is_file()
    );
}

#[test]
fn of_two_runs_the_earlier_one_fails_at_its_next_save() {
    let url = "memory://two/run";
    let run = ranks(2).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        let mut saves = world.checkpointer(url)?;
        saves.save(part(&run, 1))?;
        if world.is_chief() {
            // One that has not loaded the save is refused, and does the first no harm.
            let stranger = ranks(1).run(|other| {
                let run = start(&other, &Strategy::ddp())?;
                other.checkpointer(url)?.save(part(&run, 9))
            });
            let error = stranger.unwrap_err().to_string();
            assert!(error.contains("load it first"), "{error}");
        }
        world.comm().barrier(&"one".into())?;
        saves.save(part(&run, 1))?;
        if world.is_chief() {
            let other = ranks(1).run(|other| {
                let run = start(&other, &Strategy::ddp())?;
                let mut open = other.open_save(url, Which::Latest)?;
                open.model("model", run.0, run.1)?;
                open.finish()?;
                let run = start(&other, &Strategy::ddp())?;
                other.checkpointer(url)?.save(part(&run, 2))
            });
            other.unwrap();
        }
        world.comm().barrier(&"both".into())?;
        let error = saves.save(part(&run, 3)).unwrap_err().to_string();
        assert!(
            !world.is_chief() || error.contains("that run saves here now"),
            "{error}"
        );
        Ok(())
    });
    run.unwrap();
    assert_eq!(OpenSave::new(url, Which::Latest).unwrap().step(), 2);
}

#[test]
fn a_failed_upload_is_an_error_on_every_rank_and_costs_no_save() {
    let (folder, url) = local("failing");
    // An object that cannot be written: a folder has its name.
    let blocked = "runs/1/step-00000002/rank-00001-of-00002.safetensors";
    let blocked = folder.path().join(blocked);
    let run = ranks(2).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        let mut saves = world.checkpointer(&url)?.keep(Keep::all());
        saves.save(part(&run, 1))?;
        std::fs::create_dir_all(&blocked).unwrap();
        std::fs::write(blocked.join("x"), "").unwrap();
        world.comm().barrier(&"blocked".into())?;
        assert!(saves.save_in_background(part(&run, 2))?);
        let error = saves.wait().unwrap_err().to_string();
        assert!(error.contains("rank-00001-of-00002"), "{error}");
        assert_eq!(world.open_save(&url, Which::Latest)?.step(), 1);
        saves.save(part(&run, 3))?;
        assert_eq!(world.open_save(&url, Which::Latest)?.step(), 3);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn a_flipped_bit_and_a_missing_object_are_errors_with_their_names() {
    let (folder, url) = local("damage");
    saved(&url, &[1]).unwrap();
    let data = folder
        .path()
        .join("runs/1/step-00000001/rank-00000-of-00001.safetensors");
    let whole = std::fs::read(&data).unwrap();
    let failed = || {
        let run = ranks(2).run(|world| {
            let run = start(&world, &Strategy::fsdp())?;
            let mut open = world.open_save(&url, Which::Latest)?;
            open.model("model", run.0, run.1)?;
            Ok(())
        });
        run.unwrap_err().to_string()
    };
    let mut bytes = whole.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&data, &bytes).unwrap();
    let error = failed();
    assert!(
        error.contains("checksum") && error.contains("rank-00000-of-00001"),
        "{error}"
    );
    std::fs::write(&data, &whole[..last]).unwrap();
    let error = failed();
    assert!(error.contains(&format!("{last} bytes")), "{error}");
    std::fs::remove_file(&data).unwrap();
    let error = failed();
    assert!(
        error.contains("not found") && error.contains(&url),
        "{error}"
    );
    let nothing = OpenSave::new("memory://nothing/run", Which::Latest).unwrap_err();
    assert!(nothing.to_string().contains("a complete save"), "{nothing}");
}

#[test]
fn a_scheme_without_its_feature_is_an_error_on_every_rank() {
    let run = ranks(2).run(|world| world.has_save("ftp://host/run").map(|_| ()));
    let error = run.unwrap_err().to_string();
    assert!(error.contains("s3://"), "{error}");
}
