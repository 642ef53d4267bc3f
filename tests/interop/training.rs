//! A small training, and its comparison with ranks that are threads.

use super::process::{Ended, Run, built, command};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A folder for one test: its data, and a save of every run.
pub(crate) struct Training {
    folder: TempDir,
    /// More arguments of every run.
    more: &'static str,
}

/// What a run has come to: the lines it printed that do not depend on the time it took, and all
/// bytes it saved.
#[derive(PartialEq)]
pub(crate) struct Outcome {
    pub(crate) lines: Vec<String>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// The example.
pub(crate) fn example() -> PathBuf {
    built(&format!(
        "examples/vit_fsdp{}",
        std::env::consts::EXE_SUFFIX
    ))
}

impl Training {
    /// CIFAR-10's files with few images that are easy to classify, for steps of milliseconds.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = |count: u8| -> Vec<u8> {
            let image = |i: u8| {
                let label = i % 10;
                let pixel = move |p: usize| label * 20 + (p * 7 + usize::from(i)) as u8 % 16;
                std::iter::once(label).chain((0..3072).map(pixel))
            };
            (0..count).flat_map(image).collect()
        };
        for part in 1..=5 {
            let file = format!("data_batch_{part}.bin");
            std::fs::write(folder.path().join(file), images(8)).unwrap();
        }
        std::fs::write(folder.path().join("test_batch.bin"), images(25)).unwrap();
        Self { folder, more: "" }
    }

    /// The same with more arguments.
    pub(crate) fn with(self, more: &'static str) -> Self {
        Self { more, ..self }
    }

    /// The example's arguments for a few steps and a save of this name.
    pub(crate) fn args(&self, save: &str) -> Vec<String> {
        let (data, save) = (self.folder.path().display(), self.save(save));
        let (save, steps) = (
            save.display(),
            "--per-gpu-batch 2 --epochs 1 --steps 3 --log-to none",
        );
        let line = format!("--data {data} --save {save} {steps} {}", self.more);
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// The example's arguments for a run without an end.
    pub(crate) fn endless(&self) -> Vec<String> {
        let data = self.folder.path().display();
        let line = format!("--data {data} --per-gpu-batch 2 --epochs 1000000 --log-to none");
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn save(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The outcome on so many ranks as threads of one process.
    pub(crate) fn of_threads(&self, ranks: usize) -> Outcome {
        let save = format!("threads-{ranks}");
        let mut threads = command(example(), "");
        threads.args(["--ranks", &ranks.to_string()]);
        self.outcome(&save, vec![Run::start(threads.args(self.args(&save)))])
    }

    /// The outcome of processes that form one world and save under this name.
    ///
    /// All of them succeed, and one of them prints.
    pub(crate) fn outcome(&self, save: &str, runs: Vec<Run>) -> Outcome {
        let ended: Vec<Ended> = runs.into_iter().map(Run::end).collect();
        for ended in &ended {
            assert_eq!(ended.code, Some(0), "{ended:#?}");
        }
        let lines = ended.iter().flat_map(|ended| ended.out.lines());
        let lines = lines.map(unprefixed).filter(|line| is_result(line));
        let mut files = BTreeMap::new();
        read(&self.save(save), Path::new(""), &mut files);
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        assert_eq!(lines.len(), 4, "{ended:#?}");
        assert!(files.len() > 1, "{:?}", files.keys());
        Outcome { lines, files }
    }

    /// Runs commands side by side, each with the example's arguments behind its own, and expects
    /// them to do what so many threads do.
    pub(crate) fn expect_of_threads(&self, ranks: usize, save: &str, commands: Vec<Command>) {
        let run = |mut command: Command| Run::start(command.args(self.args(save)));
        let found = self.outcome(save, commands.into_iter().map(run).collect());
        found.expect(&self.of_threads(ranks), save);
    }
}

impl Outcome {
    pub(crate) fn expect(&self, other: &Self, name: &str) {
        assert_eq!(self.lines, other.lines, "{name}");
        assert!(self.files.keys().eq(other.files.keys()), "{name}");
        for (path, bytes) in &self.files {
            assert!(*bytes == other.files[path], "{name}: {}", path.display());
        }
    }
}

/// A line without the launcher's prefix.
fn unprefixed(line: &str) -> &str {
    let rest = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "));
    rest.map_or(line, |(_, rest)| rest)
}

/// Whether a line does not depend on the speed of the run.
fn is_result(line: &str) -> bool {
    let starts = [
        "fsdp over ",
        "epoch ",
        "  test accuracy ",
        "  sent per rank and step  ",
    ];
    starts.iter().any(|start| line.starts_with(start))
}

fn read(folder: &Path, name: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(folder.join(name)).unwrap().flatten() {
        let name = name.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            read(folder, &name, files);
        } else if name != Path::new("lock") {
            // The lock names the process that the folder belongs to, so it differs between runs.
            let bytes = std::fs::read(entry.path()).unwrap();
            files.insert(name, bytes);
        }
    }
}
