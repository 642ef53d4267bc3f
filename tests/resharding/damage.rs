//! A full disk, damaged files, and files of two saves mixed.

use crate::contents::{Contents, latest};
use crate::model::{load, ranks, save, start, train};
use crate::program::{command, under};
use burn_dist::{Error, Strategy};
use std::path::Path;
use std::process::Command;

/// The text of the error of a load on so many ranks, of the rank that has an error of its own.
fn refusal(folder: &Path, size: usize) -> String {
    let run = ranks(size).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        load(&world, folder, run).map(drop)
    });
    match run {
        Err(error @ Error::File { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn saved(folder: &Path, size: usize, steps: usize) {
    let run = ranks(size).run(|world| {
        let run = train(&world, start(&world, &Strategy::fsdp())?, 0..steps)?;
        save(&world, folder, &run, steps)
    });
    run.unwrap();
}

#[test]
fn a_bit_that_is_flipped_in_any_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    saved(folder, 3, 1);
    let files = std::fs::read_dir(latest(folder)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.push(folder.join("latest"));
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let every = (bytes.len() / 15).max(1);
        for at in (0..bytes.len()).step_by(every) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 7);
            std::fs::write(&file, &flipped).unwrap();
            let error = refusal(folder, 1 + at % 3);
            // A `latest` with another number names a save that is not there.
            let is_named = error.contains(&name) || name == "latest";
            assert!(is_named, "byte {at} of {name}: {error}");
        }
        std::fs::write(&file, &bytes).unwrap();
    }
    Contents::of(folder);
}

#[test]
fn files_of_two_saves_do_not_mix() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for (steps, folder) in folders.iter().enumerate() {
        saved(folder.path(), 2, steps + 1);
    }
    let name = "rank-00001-of-00002.safetensors";
    let [one, other] = folders
        .each_ref()
        .map(|folder| latest(folder.path()).join(name));
    std::fs::copy(&other, &one).unwrap();
    let error = refusal(folders[0].path(), 3);
    assert!(
        error.contains(name) && error.contains("checksum"),
        "{error}"
    );
}

/// Runs the program under a limit, and returns what it says at its end.
fn limited(shell: &str, folder: &Path, until: usize) -> (Option<i32>, String) {
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("{shell}\nexec \"$@\""), "bash"]);
    let ended = under(bash, &command(folder, until)).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    (ended.status.code(), text)
}

#[test]
fn a_file_that_cannot_be_written_costs_no_save() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert_eq!(limited("", folder, 2).0, Some(0));
    let before = Contents::of(folder);
    // 4 KiB, of files of 20. Without a signal, a write fails.
    let (code, text) = limited("trap '' XFSZ; ulimit -f 4", folder, 4);
    assert_eq!(code, Some(7), "{text}");
    let is_clear = text.contains("rank-0000") && text.contains("File too large");
    assert!(is_clear, "{text}");
    Contents::of(folder).expect(&before, "after a full disk");
    // What it has begun is gone, and the next run goes on.
    assert_eq!(limited("", folder, 4).0, Some(0));
    let saves = std::fs::read_dir(folder).unwrap().flatten();
    let saves = saves.filter(|entry| entry.path().is_dir());
    assert_eq!(saves.count(), 2);
}

#[test]
fn a_full_disk_costs_no_save() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("run");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.display();
    // Room for two saves of some 40 KB, and not for a third beside them.
    let shell = format!(
        "mount -t tmpfs -o size=128k tmpfs {path} 2>/dev/null || exit 77\n\
         \"$@\" && exit 1\ncp -r {path}/. {}/kept\nexit 0\n",
        outer.path().display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--map-root-user", "bash", "-c", &shell, "bash"]);
    let Ok(ended) = under(unshare, &command(&folder, 40)).output() else {
        return println!("skipped: no unshare here");
    };
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    if ended.status.code() != Some(0) {
        let is_refused = ended.status.code() == Some(77) || text.contains("not permitted");
        assert!(is_refused, "{text}");
        return println!("skipped: this user may not mount a tmpfs");
    }
    assert!(text.contains("No space left"), "{text}");
    Contents::of(&outer.path().join("kept"));
}
