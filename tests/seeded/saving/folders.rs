//! Folders of saves: a run replaces or removes only what it has loaded or written.

use super::{load, save_once, start};
use crate::alone;
use burn_dist::launch::Threads;
use burn_dist::{Error, Result, Strategy, World};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Saves without having loaded what is there.
fn save_anew(folder: &Path) -> Result<Vec<()>> {
    Threads::new(2).run(|world| anew(folder, &world))
}

fn anew(folder: &Path, world: &World) -> Result<()> {
    let (model, optimizer) = start(&Strategy::fsdp(), world)?;
    world.save(folder, &model, &optimizer, &0usize)
}

fn is_refused(result: Result<Vec<()>>, words: &[&str]) {
    let error = match result {
        Err(error @ Error::File { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<_> = all.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_io_error_is_not_taken_for_a_folder_without_a_save() {
    let _alone = alone();
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("loop");
    symlink(&folder, &folder).unwrap();
    let outcome = Threads::new(2).run(|world| {
        let error = world.has_save(&folder).expect_err("nobody can tell");
        assert_eq!(
            matches!(error, Error::PeerFailed { peer: 0, .. }),
            !world.is_chief()
        );
        Err::<(), _>(error)
    });
    is_refused(outcome, &["latest", "certainly none"]);
}

#[test]
fn an_unreadable_manifest_is_an_error_and_is_not_replaced() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_once(folder, 2, 1);
    let manifest = folder.join("step-00000001/manifest.json");
    std::fs::rename(&manifest, folder.join("kept.json")).unwrap();
    symlink(&manifest, &manifest).unwrap();
    let found = Threads::new(2).run(|world| world.has_save(folder));
    assert_eq!(found.unwrap(), [true; 2]);
    let error = load(folder, 2).unwrap_err().to_string();
    assert!(error.contains("manifest"), "{error}");
    is_refused(save_anew(folder), &["manifest.json"]);
    std::fs::remove_file(&manifest).unwrap();
    std::fs::rename(folder.join("kept.json"), &manifest).unwrap();
    assert_eq!(load(folder, 2).unwrap(), [1, 1]);
}

#[test]
fn a_save_of_an_earlier_version_is_an_error() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("manifest.json");
    std::fs::write(manifest, r#"{"format":"burn-dist save","version":2}"#).unwrap();
    is_refused(
        save_anew(folder.path()),
        &["earlier version", "choose another folder"],
    );
    let found = Threads::new(2).run(|world| world.has_save(folder.path()));
    assert!(found.unwrap_err().to_string().contains("earlier version"));
}

#[test]
fn a_save_that_was_not_loaded_is_not_replaced() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_once(folder, 2, 7);
    let before = entries(folder);
    is_refused(
        save_anew(folder),
        &["step-00000001 of another run", "load it first"],
    );
    assert_eq!(entries(folder), before);
    assert_eq!(load(folder, 2).unwrap(), [7, 7]);
    // Nor is one that has come meanwhile.
    let outcome = Threads::new(2).run(|world| {
        let (model, optimizer) = start(&Strategy::fsdp(), &world)?;
        let (model, optimizer, _) = world.load::<_, usize>(folder, model, optimizer)?;
        if world.is_chief() {
            save_once(folder, 2, 8);
        }
        world.comm().barrier(&"another".into())?;
        world.save(folder, &model, &optimizer, &9usize)
    });
    is_refused(outcome, &["step-00000002 of another run"]);
    assert_eq!(load(folder, 2).unwrap(), [8, 8]);
}

#[test]
fn foreign_files_beside_saves_are_kept() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_once(folder, 2, 1);
    // A copy under another name, a foreign folder, and ones that only have the name of a save.
    let first = folder.join("step-00000001");
    for name in ["step-00000002", "step-00000017", "step-best", "step-1"] {
        let kept = folder.join(name);
        std::fs::create_dir(&kept).unwrap();
        for file in entries(&first) {
            std::fs::copy(first.join(&file), kept.join(&file)).unwrap();
        }
    }
    std::fs::remove_file(folder.join("step-00000002/manifest.json")).unwrap();
    save_once(folder, 2, 2);
    save_once(folder, 2, 3);
    let expected = [
        "latest",
        "lock",
        "step-00000002",
        "step-00000003",
        "step-00000017",
        "step-1",
        "step-best",
    ];
    assert_eq!(entries(folder), expected);
    assert_eq!(entries(&folder.join("step-00000002")).len(), 2);
    assert_eq!(entries(&folder.join("step-00000017")).len(), 3);
    assert_eq!(load(folder, 2).unwrap(), [3, 3]);
}

#[test]
fn files_follow_the_umask() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode();
    std::fs::write(folder.join("plain"), "").unwrap();
    save_once(folder, 2, 1);
    let save = folder.join("step-00000001");
    for name in entries(&save) {
        assert_eq!(mode(save.join(&name)), mode(folder.join("plain")), "{name}");
    }
    assert_eq!(entries(&save).len(), 3);
    for name in ["latest", "lock"] {
        assert_eq!(
            mode(folder.join(name)),
            mode(folder.join("plain")),
            "{name}"
        );
    }
}

#[test]
fn ranks_that_see_different_saves_are_refused() {
    let _alone = alone();
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for (seed, folder) in folders.iter().enumerate() {
        let ranks = Threads::new(2).seed(seed as u64);
        ranks.run(|world| anew(folder.path(), &world)).unwrap();
    }
    let outcome = Threads::new(2).run(|world| {
        let (model, optimizer) = start(&Strategy::fsdp(), &world)?;
        let mine = folders[world.rank()].path();
        world.load::<_, usize>(mine, model, optimizer).map(drop)
    });
    // Each has initial values of its own.
    is_refused(outcome, &["rank-0000", "checksum"]);
}

#[test]
fn a_modified_manifest_is_an_error() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    save_once(folder.path(), 2, 123);
    let path = folder.path().join("step-00000001/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"json\":123", "\"json\":99999999999"),
        ("\"step\":1", "\"step\":2"),
        ("\"crc32\":\"", "\"crc32\":\"0"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        std::fs::write(&path, changed).unwrap();
        let error = load(folder.path(), 2).unwrap_err().to_string();
        assert!(error.contains("nobody has changed"), "{error}");
    }
    std::fs::write(&path, text).unwrap();
    assert_eq!(load(folder.path(), 2).unwrap(), [123, 123]);
}

#[test]
fn a_second_run_in_one_folder_is_an_error_that_names_the_first() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let process = format!("process {}", std::process::id());
    let outcome = Threads::new(2).run(|world| {
        anew(folder, &world)?;
        if world.is_chief() {
            let second = Threads::new(2).run(|other| {
                let error = other.claim_saves(folder).expect_err("it is taken");
                let own = matches!(error, Error::File { .. });
                assert_eq!(own, other.is_chief(), "{error}");
                Err(error)
            });
            is_refused(second, &["in use", "host ", &process]);
        }
        world.comm().barrier(&"second".into())?;
        // The first goes on.
        anew(folder, &world)
    });
    outcome.unwrap();
    // And when it has ended, another one may.
    save_once(folder, 2, 5);
}

/// A process of this test, killed at its end.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_run_releases_the_lock() {
    let _alone = alone();
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("run");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["saving::folders::holder", "--exact", "--ignored"])
        .env("SAVING_FOLDER", &folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut holder = Holder(command.spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(60);
    while !outer.path().join("held").exists() {
        assert!(Instant::now() < until, "it never held the folder");
        assert!(holder.0.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let claim = || Threads::new(1).run(|world| world.claim_saves(&folder));
    is_refused(claim(), &[&format!("process {}", holder.0.id())]);
    holder.0.kill().unwrap();
    claim().unwrap();
    save_once(&folder, 2, 1);
}

/// Not a test: a run that holds a folder until it is killed.
#[test]
#[ignore = "a process of another test"]
fn holder() {
    let Some(folder) = std::env::var_os("SAVING_FOLDER").map(PathBuf::from) else {
        return;
    };
    let outcome: Result<Vec<()>> = Threads::new(1).run(|world| {
        world.claim_saves(&folder)?;
        std::fs::write(folder.with_file_name("held"), "").unwrap();
        loop {
            std::thread::park();
        }
    });
    outcome.unwrap();
}
