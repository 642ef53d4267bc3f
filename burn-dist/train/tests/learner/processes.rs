//! The example, as threads and as processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::tempdir;

/// Cargo builds examples before tests, beside their folder.
fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let built = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/learner_fsdp");
    assert!(
        built.exists(),
        "build it: cargo test --release -p burn-dist-train"
    );
    built
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(example());
    command.args(arguments).current_dir(folder);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn assert_ended_well(output: &Output) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
}

/// What Burn's logger wrote of a metric, of the validation after the last epoch.
fn last_losses(folder: &Path) -> String {
    fs::read_to_string(folder.join("learner/valid/epoch-10/Loss.log")).unwrap()
}

/// Waits until a file of the run is there.
fn wait_for(path: &Path, child: &mut Child) {
    let start = Instant::now();
    while !path.exists() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no {}",
            path.display()
        );
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn processes_give_what_threads_give_and_go_on_after_sigterm() {
    let (threads, processes, cut) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    assert_ended_well(&run(threads.path(), &[]));
    assert_ended_well(&run(processes.path(), &["--nproc-per-node", "2"]));
    let expected = last_losses(threads.path());
    assert!(expected.lines().count() > 10, "{expected}");
    assert_eq!(last_losses(processes.path()), expected);
    // A log of its own for each process, and metrics of one rank.
    let own = processes.path().join("learner/rank-1");
    assert!(own.join("experiment.log").exists());
    assert!(!own.join("train").exists());

    let mut child = command(cut.path(), &["--nproc-per-node", "2"])
        .spawn()
        .unwrap();
    wait_for(
        &cut.path().join("learner/train/epoch-3/Loss.log"),
        &mut child,
    );
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_ended_well(&child.wait_with_output().unwrap());
    assert!(
        !cut.path().join("learner/valid/epoch-9").exists(),
        "it was not stopped"
    );
    assert_ended_well(&run(cut.path(), &["--nproc-per-node", "2", "--resume"]));
    assert_eq!(last_losses(cut.path()), expected);
}

#[test]
fn a_program_that_forgets_to_go_on_is_told() {
    let folder = tempdir().unwrap();
    assert_ended_well(&run(folder.path(), &[]));
    let again = run(folder.path(), &[]);
    let errors = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("error: learner/save: expected no save"),
        "{errors}"
    );
}
