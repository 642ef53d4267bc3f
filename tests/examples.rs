//! The example as a stranger runs it: from the command line, with good and with bad arguments.
//!
//! What is tested is what is promised on the outside: a line per epoch, a number that does not depend
//! on the number of ranks, a run that goes on after a kill, and for every mistake one sentence that
//! says what is wrong instead of a backtrace.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No run here takes more than a few seconds; one that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Cargo puts examples next to the folder of the test's own binary.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap();
    let name = format!("vit_fsdp{}", std::env::consts::EXE_SUFFIX);
    let path = folder.join("examples").join(name);
    assert!(
        path.is_file(),
        "{} is missing: `cargo test` builds it, and so does `cargo build --example vit_fsdp`",
        path.display()
    );
    path
}

/// A run of the example that is going on.
struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: JoinHandle<String>,
    deadline: Instant,
    seen: Vec<String>,
}

/// How a run ended and what it printed.
struct Ended {
    code: Option<i32>,
    stdout: Vec<String>,
    stderr: String,
}

impl Running {
    fn start(args: &str, folders: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(binary());
        command.args(args.split_whitespace());
        for (flag, folder) in folders {
            command.arg(flag).arg(folder);
        }
        let mut child = command
            // Panics would show themselves, and nothing else may print.
            .env("RUST_BACKTRACE", "1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, stdout) = mpsc::channel();
        std::thread::spawn(move || {
            lines
                .map_while(std::result::Result::ok)
                .try_for_each(|line| send.send(line))
        });
        let mut errors = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).map(|_| text).unwrap()
        });
        Self {
            child,
            stdout,
            stderr,
            deadline: Instant::now() + LIMIT,
            seen: Vec::new(),
        }
    }

    /// Reads until a line that starts so, or to the end of the output.
    fn read_until(&mut self, start: Option<&str>) {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(line) => {
                    let found = start.is_some_and(|start| line.starts_with(start));
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill().unwrap();
                    panic!("no end after {LIMIT:?}; so far: {:#?}", self.seen);
                }
            }
        }
    }

    fn end(mut self) -> Ended {
        self.read_until(None);
        Ended {
            code: self.child.wait().unwrap().code(),
            stdout: self.seen,
            stderr: self.stderr.join().unwrap(),
        }
    }

    /// Kills it once it has printed a line that starts so.
    fn kill_at(mut self, start: &str) {
        self.read_until(Some(start));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let seen = self.seen.last().unwrap();
        assert!(seen.starts_with(start), "it ended before, with {seen}");
    }
}

impl Ended {
    fn succeeded(self) -> Vec<String> {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The one line with which it failed.
    fn failed(self) -> String {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        let lines: Vec<_> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{}", self.stderr);
        assert!(lines[0].starts_with("error: "), "{}", lines[0]);
        lines[0].to_owned()
    }
}

fn run(args: &str, folders: &[(&str, &Path)]) -> Ended {
    Running::start(args, folders).end()
}

/// A row of the closing table.
fn row<'a>(output: &'a [String], name: &str) -> &'a str {
    let start = format!("  {name:<24} ");
    let found: Vec<_> = output
        .iter()
        .filter_map(|line| line.strip_prefix(&start))
        .collect();
    assert_eq!(found.len(), 1, "rows {name} in {output:#?}");
    found[0]
}

/// Megabytes that a rank sent per step: counted, and planned.
fn sent(output: &[String]) -> (f64, f64) {
    let row = row(output, "sent per rank and step");
    let (counted, planned) = row.split_once(", planned ").unwrap();
    let number = |text: &str| text.strip_suffix(" MB").unwrap().parse().unwrap();
    (number(counted), number(planned))
}

/// The epochs that were trained, and the line of each.
fn epochs(output: &[String]) -> Vec<(&str, &str)> {
    output
        .iter()
        .filter_map(|line| line.split_once(": test accuracy "))
        .collect()
}

fn names(output: &[String]) -> Vec<&str> {
    epochs(output).into_iter().map(|(name, _)| name).collect()
}

/// CIFAR-10 in its format and with few images, each plainly of its class: epochs of a moment.
fn cifar() -> TempDir {
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
    folder
}

#[test]
fn it_runs_without_any_file_on_one_two_and_three_ranks() {
    for ranks in 1..=3 {
        let args = format!("--ranks {ranks} --epochs 1 --steps 3");
        let output = run(&args, &[]).succeeded();
        assert!(output[0].starts_with(&format!("fsdp over {ranks} rank(s)")));
        assert_eq!(names(&output), ["epoch 1"]);
        assert!(row(&output, "test accuracy").contains("of 512"));
    }
}

#[test]
fn every_strategy_trains_and_sends_what_its_plan_says() {
    let data = cifar();
    for strategy in ["ddp", "zero1", "zero2", "fsdp", "hybrid:1", "hybrid:2"] {
        let args =
            format!("--strategy {strategy} --per-gpu-batch 4 --epochs 1 --steps 3 --ranks 2");
        let output = run(&args, &[("--data", data.path())]).succeeded();
        assert!(output[0].starts_with(&format!("{strategy} over 2 rank(s)")));
        assert_eq!(names(&output), ["epoch 1"]);
        let (counted, planned) = sent(&output);
        assert_eq!(counted, planned, "{strategy}");
        assert!(planned > 0.0, "{strategy}");
    }
}

#[test]
fn one_rank_alone_is_a_strategy_too() {
    let data = cifar();
    let args = "--strategy single --ranks 1 --per-gpu-batch 4 --epochs 1 --steps 3";
    let output = run(args, &[("--data", data.path())]).succeeded();
    assert!(output[0].starts_with("single over 1 rank(s)"));
    assert_eq!(names(&output), ["epoch 1"]);
    assert_eq!(sent(&output), (0.0, 0.0));
}

#[test]
fn accumulated_batches_train_like_one_of_their_size() {
    let data = cifar();
    let run = |args: &str| run(args, &[("--data", data.path())]).succeeded();
    let halves = run("--per-gpu-batch 5 --accumulate 2 --epochs 2");
    let whole = run("--per-gpu-batch 10 --epochs 2");
    assert_eq!(names(&halves), ["epoch 1", "epoch 2"]);
    let loss = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    for ((epoch, halves), (_, whole)) in epochs(&halves).into_iter().zip(epochs(&whole)) {
        // Both are rounded to three digits.
        let off = loss(halves) - loss(whole);
        assert!(off.abs() < 2e-3, "{epoch}: {halves} and {whole}");
    }
    // FSDP gathers and reduces in each backward pass: twice a step.
    assert_eq!(sent(&halves).0, sent(&halves).1);
    assert!((sent(&halves).0 - 2.0 * sent(&whole).0).abs() < 0.015);
}

#[test]
fn an_untrained_model_is_as_accurate_on_any_number_of_ranks() {
    let accuracies = [1, 2, 3].map(|ranks| {
        let output = run(&format!("--ranks {ranks} --epochs 0"), &[]).succeeded();
        assert!(epochs(&output).is_empty());
        row(&output, "test accuracy").to_owned()
    });
    assert!(accuracies[0].contains("of 512"), "{}", accuracies[0]);
    assert_eq!(accuracies[1], accuracies[0]);
    assert_eq!(accuracies[2], accuracies[0]);
}

#[test]
fn a_killed_run_resumes_to_where_it_would_have_come() {
    let data = cifar();
    let save = tempfile::tempdir().unwrap();
    let args = "--per-gpu-batch 4 --epochs 4";
    let straight = run(args, &[("--data", data.path())]).succeeded();
    assert_eq!(
        names(&straight),
        ["epoch 1", "epoch 2", "epoch 3", "epoch 4"]
    );

    let folders = [("--data", data.path()), ("--save", save.path())];
    // The line of the third epoch comes before its save, so that the kill is somewhere in it.
    Running::start(args, &folders).kill_at("epoch 3");
    let resumed = run(&format!("{args} --resume"), &folders).succeeded();
    let rest = epochs(&resumed);
    assert!((1..=2).contains(&rest.len()), "{resumed:#?}");
    assert!(epochs(&straight).ends_with(&rest), "{resumed:#?}");
    let accuracy = |output| row(output, "test accuracy").to_owned();
    assert_eq!(accuracy(&resumed), accuracy(&straight));
}

#[test]
fn a_finished_run_goes_on_for_more_epochs() {
    let data = cifar();
    let save = tempfile::tempdir().unwrap();
    let folders = [("--data", data.path()), ("--save", save.path())];
    let first = run("--per-gpu-batch 4 --epochs 1", &folders).succeeded();
    assert_eq!(names(&first), ["epoch 1"]);
    let more = run("--per-gpu-batch 4 --epochs 3 --resume", &folders).succeeded();
    assert_eq!(names(&more), ["epoch 2", "epoch 3"]);
}

#[test]
fn a_wrong_flag_shows_the_usage() {
    let ended = run("--rank 2", &[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("'--rank'"), "{}", ended.stderr);
    assert!(ended.stderr.contains("Usage: vit_fsdp"), "{}", ended.stderr);
}

#[test]
fn an_unknown_strategy_is_answered_with_the_known_ones() {
    let ended = run("--strategy zero9", &[]);
    assert_eq!(ended.code, Some(2));
    let known = "single, ddp, zero1, zero2, fsdp or hybrid:N";
    assert!(ended.stderr.contains("'zero9'"), "{}", ended.stderr);
    assert!(ended.stderr.contains(known), "{}", ended.stderr);
}

#[test]
fn numbers_of_ranks_that_cannot_be_are_refused() {
    let cases = [
        (
            "--ranks 0",
            "error: number of ranks: expected at least 1, found 0",
        ),
        (
            "--strategy single --ranks 2",
            "error: strategy single: expected one rank (use ddp for several), found 2 ranks",
        ),
        (
            "--strategy hybrid:3 --ranks 2",
            "error: strategy hybrid: expected a group size that divides the 2 ranks, found 3",
        ),
        (
            "--accumulate 0",
            "error: --accumulate: expected at least 1, found 0",
        ),
    ];
    for (args, message) in cases {
        assert_eq!(run(args, &[]).failed(), message, "{args}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let nowhere = tempfile::tempdir().unwrap().path().join("nowhere");
    let message = run("", &[("--data", &nowhere)]).failed();
    let expected = format!(
        "error: {}: expected the folder cifar-10-batches-bin of CIFAR-10's binary version",
        nowhere.display()
    );
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn a_damaged_file_is_named() {
    let data = cifar();
    let file = data.path().join("data_batch_4.bin");
    std::fs::write(&file, vec![0; 3073 + 5]).unwrap();
    let message = run("", &[("--data", data.path())]).failed();
    let expected = format!("error: {}: expected a whole number", file.display());
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn there_is_nothing_to_resume_from_in_an_empty_folder() {
    let (data, save) = (cifar(), tempfile::tempdir().unwrap());
    let folders = [("--data", data.path()), ("--save", save.path())];
    let message = run("--resume", &folders).failed();
    assert!(
        message.starts_with(&format!("error: {}", save.path().display())),
        "{message}"
    );
}
