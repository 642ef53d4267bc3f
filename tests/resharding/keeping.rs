//! Which saves stay, and that nothing else goes.

use crate::contents::{Contents, latest, manifest};
use crate::model::{Run, ranks, start};
use burn_dist::checkpoint::{Best, Checkpointer, Keep, Save, Which};
use burn_dist::{Result, Strategy, World};
use std::path::Path;

fn save(saves: &mut Checkpointer, run: &Run, step: u64, loss: f64) -> Result<()> {
    let save = Save::new(step).model("model", &run.0, &run.1);
    saves.save(save.metric("loss", loss))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.starts_with("step-"))
        .collect();
    names.sort();
    names
}

fn pointed(folder: &Path, pointer: &str) -> String {
    let text = std::fs::read_to_string(folder.join(pointer)).unwrap();
    text.trim().into()
}

fn with_run(size: usize, folder: &Path, f: impl Fn(World, Checkpointer, Run) -> Result<()> + Sync) {
    let run = ranks(size).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        let saves = world.checkpointer(folder)?;
        f(world, saves, run)
    });
    run.unwrap();
}

#[test]
fn the_last_every_kth_and_the_best_stay() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // What is not ours stays, whatever its name is.
    std::fs::create_dir(folder.join("step-00000011")).unwrap();
    with_run(2, folder, |world, saves, run| {
        let keep = Keep::last(2)?.every(20)?.best("loss", Best::Lowest);
        let mut saves = saves.keep(keep);
        for (step, loss, kept, best) in [
            (10, 3.0, "10", 10),
            (20, f64::NAN, "10 20", 10),
            (30, 1.0, "20 30", 30),
            (40, 2.0, "20 30 40", 30),
            (50, 1.0, "20 30 40 50", 30),
            (60, f64::INFINITY, "20 30 40 50 60", 30),
            (70, 0.5, "20 40 60 70", 70),
        ] {
            save(&mut saves, &run, step, loss)?;
            if world.is_chief() {
                let mut expected: Vec<String> = kept
                    .split(' ')
                    .map(|step| format!("step-000000{step}"))
                    .collect();
                expected.insert(
                    usize::from(expected[0].as_str() < "step-00000011"),
                    "step-00000011".into(),
                );
                assert_eq!(names(folder), expected, "after {step}");
                assert_eq!(pointed(folder, "latest"), format!("step-{step:08}"));
                assert_eq!(pointed(folder, "best"), format!("step-{best:08}"));
            }
            let opened = world.open_save(folder, Which::Best)?;
            assert_eq!(opened.step(), best);
            world.comm().barrier(&"seen".into())?;
        }
        Ok(())
    });
}

#[test]
fn a_metric_that_is_missing_or_differs_between_ranks_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    with_run(2, folder.path(), |world, saves, run| {
        let mut saves = saves.keep(Keep::all().best("score", Best::Highest));
        let error = save(&mut saves, &run, 1, 0.5).unwrap_err().to_string();
        assert!(error.contains("score, by which"), "{error}");
        let mut saves = saves.keep(Keep::last(1)?);
        let loss = world.rank() as f64;
        let error = save(&mut saves, &run, 1, loss).unwrap_err().to_string();
        assert!(error.contains("loss is 1.0 on rank 1"), "{error}");
        let step = 1 + world.rank() as u64;
        let error = save(&mut saves, &run, step, 0.0).unwrap_err().to_string();
        assert!(error.contains("step is Some(2) on rank 1"), "{error}");
        // The ranks are still in the same order of collectives.
        save(&mut saves, &run, 1, f64::NAN)
    });
    assert_eq!(names(folder.path()), ["step-00000001"]);
}

#[test]
fn a_run_that_went_back_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    with_run(2, folder, |world, saves, run| {
        let mut saves = saves.keep(Keep::all());
        for step in [10, 20, 30] {
            save(&mut saves, &run, step, 0.0)?;
        }
        let mut opened = world.open_save(folder, Which::Step(10))?;
        let run = opened.model("model", run.0, run.1)?;
        opened.finish()?;
        save(&mut saves, &run, 20, 0.0)?;
        assert_eq!(world.open_save(folder, Which::Latest)?.step(), 20);
        let error = world
            .open_save(folder, Which::Step(25))
            .unwrap_err()
            .to_string();
        assert!(error.contains("10") && error.contains("30"), "{error}");
        Ok(())
    });
    let expected = [
        "step-00000010",
        "step-00000020",
        "step-00000020.2",
        "step-00000030",
    ];
    assert_eq!(names(folder), expected);
    assert_eq!(pointed(folder, "latest"), "step-00000020.2");
    assert_eq!(manifest(&latest(folder))["sequence"], 4);
}

#[test]
fn what_an_interrupted_removal_left_goes_with_the_next_save() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    with_run(1, folder, |_, saves, run| {
        let mut saves = saves.keep(Keep::all());
        for step in [1, 2, 3] {
            save(&mut saves, &run, step, 0.0)?;
        }
        // A kill after the first act of a removal, and one after a commit before its last.
        let gone = folder.join("step-00000001");
        std::fs::rename(
            gone.join("manifest.json"),
            gone.join("unfinished-or-removed"),
        )
        .unwrap();
        let kept = folder.join("step-00000002");
        std::fs::write(kept.join("unfinished-or-removed"), "").unwrap();
        save(&mut saves, &run, 4, 0.0)
    });
    assert_eq!(
        names(folder),
        ["step-00000002", "step-00000003", "step-00000004"]
    );
    Contents::of_save(&folder.join("step-00000002"));
}

#[test]
fn a_copied_save_is_found_and_never_removed_by_a_run_that_has_not_loaded_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    with_run(1, from.path(), |_, mut saves, run| {
        save(&mut saves, &run, 7, 1.0)
    });
    // As from an object store, which has no `latest`.
    let name = "step-00000007";
    std::fs::create_dir(to.path().join(name)).unwrap();
    for file in std::fs::read_dir(from.path().join(name)).unwrap().flatten() {
        std::fs::copy(file.path(), to.path().join(name).join(file.file_name())).unwrap();
    }
    with_run(2, to.path(), |world, mut saves, run| {
        assert!(world.has_save(to.path())?);
        let error = save(&mut saves, &run, 8, 1.0).unwrap_err().to_string();
        assert!(
            !world.is_chief() || error.contains("load it first"),
            "{error}"
        );
        let mut open = world.open_save(to.path(), Which::Latest)?;
        assert_eq!(open.step(), 7);
        let run = open.model("model", run.0, run.1)?;
        open.finish()?;
        save(&mut saves, &run, 8, 1.0)
    });
    assert_eq!(names(to.path()), ["step-00000008"]);
}
