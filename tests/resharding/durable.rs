//! The order of the system calls by which a save becomes durable, as `strace` records them.

use crate::program::{command, under};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// A system call that has returned, in the order in which calls did.
#[derive(Debug, PartialEq)]
enum Call {
    Write(String),
    Sync(String),
    /// From one name to another.
    Rename(String, String),
    Remove(String),
}

/// The calls of a process with its threads; none without `strace`.
fn trace(folder: &Path, until: usize) -> Option<Vec<Call>> {
    let out = folder.with_extension("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-y", "-s", "0", "-o"])
        .arg(&out)
        .args([
            "-e",
            "trace=write,pwrite64,fsync,rename,renameat,renameat2,unlink,unlinkat",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    match under(strace, &command(folder, until)).status() {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => {
            println!("skipped: no strace here ({error})");
            return None;
        }
    }
    let text = std::fs::read_to_string(&out).unwrap();
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (thread, rest) = line.split_once(char::is_whitespace).unwrap();
        let rest = rest.trim_start();
        if let Some((start, _)) = rest.split_once(" <unfinished") {
            begun.insert(thread, start);
        } else if rest.starts_with("<...") {
            calls.extend(begun.remove(thread).and_then(call));
        } else {
            calls.extend(call(rest));
        }
    }
    Some(calls)
}

/// Of text such as `fsync(3</tmp/file>) = 0` and `rename("/a", "/b") = 0`.
fn call(text: &str) -> Option<Call> {
    let (name, arguments) = text.split_once('(')?;
    let open = || Some(arguments.split_once('<')?.1.split_once('>')?.0.to_string());
    let mut quoted = arguments.split('"').skip(1).step_by(2).map(String::from);
    match name {
        "write" | "pwrite64" => open().map(Call::Write),
        "fsync" => open().map(Call::Sync),
        "rename" | "renameat" | "renameat2" => Some(Call::Rename(quoted.next()?, quoted.next()?)),
        "unlink" | "unlinkat" => quoted.next().map(Call::Remove),
        _ => None,
    }
}

#[test]
fn a_save_is_on_disk_before_anything_names_it() {
    let outer = tempfile::tempdir().unwrap();
    let outer = std::fs::canonicalize(outer.path()).unwrap();
    let folder = outer.join("run");
    let steps = 4;
    let Some(calls) = trace(&folder, steps) else {
        return;
    };
    let run = folder.to_str().unwrap();
    let find = |from: usize, call: &Call| {
        let found = calls[from..].iter().position(|other| other == call);
        found
            .map(|at| from + at)
            .unwrap_or_else(|| panic!("no {call:?} after {from}: {calls:#?}"))
    };
    let last = |before: usize, call: &Call| {
        let found = calls[..before].iter().rposition(|other| other == call);
        found.unwrap_or_else(|| panic!("no {call:?} before {before}: {calls:#?}"))
    };
    let mut from = 0;
    for step in 1..=steps {
        let save = format!("{run}/step-{step:08}");
        let (manifest, temporary) = (
            format!("{save}/manifest.json"),
            format!("{save}/manifest.new"),
        );
        let named = find(from, &Call::Rename(temporary.clone(), manifest));
        // Every data file, and after it the folder that has its name.
        for rank in 0..2 {
            let file = format!("{save}/rank-{rank:05}-of-00002.safetensors");
            let synced = last(named, &Call::Sync(file.clone()));
            assert!(last(named, &Call::Write(file)) < synced);
            assert!(last(named, &Call::Sync(save.clone())) > synced);
        }
        // The folder of the run, which has the name of the save's.
        last(named, &Call::Sync(run.into()));
        assert!(last(named, &Call::Write(temporary.clone())) < last(named, &Call::Sync(temporary)));
        let pointer = (format!("{run}/latest.new"), format!("{run}/latest"));
        let pointed = find(named, &Call::Rename(pointer.0.clone(), pointer.1));
        // The manifest's name is on disk, and the pointer's text.
        assert!(last(pointed, &Call::Sync(save.clone())) > named);
        assert!(
            last(pointed, &Call::Sync(pointer.0.clone())) > last(pointed, &Call::Write(pointer.0))
        );
        // The save before the last goes only once the pointer is on disk; its manifest goes first.
        if step > 2 {
            let old = format!("{run}/step-{:08}", step - 2);
            let marker = format!("{old}/unfinished-or-removed");
            let unnamed = Call::Rename(format!("{old}/manifest.json"), marker);
            let unnamed = find(0, &unnamed);
            assert!(find(pointed, &Call::Sync(run.into())) < unnamed);
            let files = |call: &Call| matches!(call, Call::Remove(path) if path.starts_with(&format!("{old}/rank-")));
            let first = calls.iter().position(files).unwrap();
            assert!(find(unnamed, &Call::Sync(old)) < first);
        }
        from = pointed;
    }
}
