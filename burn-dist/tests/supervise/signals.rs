//! What the launcher is told, and what it does with its ranks then.

use super::process::{Run, is_heard, launcher, ranked};
use rustix::process::Signal;
use std::time::Duration;

/// Leaves on SIGTERM as a rank does that saves first.
const POLITE: &str = "trap 'echo saving; sleep 0.1; echo saved; exit 0' TERM; echo ready; \
                      while true; do sleep 0.05; done";

/// Only SIGKILL ends it.
const STUBBORN: &str = "trap '' TERM INT; echo ready; while true; do sleep 0.05; done";

#[test]
fn ranks_may_save_and_leave() {
    let heard = |signal: &Signal| is_heard(*signal);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP]
        .into_iter()
        .filter(heard)
    {
        let mut run = Run::start(&mut launcher("--nproc-per-node 2 --max-restarts 3", POLITE));
        run.until("ready", 2);
        run.signal(signal);
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{signal:?}: {}", ended.err);
        let saved = ["[0]: ready", "[0]: saved", "[0]: saving"];
        assert_eq!(ended.lines()[..3], saved);
    }
}

#[test]
fn ranks_without_a_trap_end_and_are_not_started_again() {
    let script = "echo ready; exec sleep 100";
    let mut run = Run::start(&mut launcher("--nproc-per-node 2 --max-restarts 3", script));
    run.until("ready", 2);
    run.signal(Signal::TERM);
    let ended = run.end();
    assert_eq!(ended.code, Some(143), "{}", ended.err);
    assert!(
        ended.err.contains("told to stop by SIGTERM"),
        "{}",
        ended.err
    );
    assert!(!ended.err.contains("again"), "{}", ended.err);
}

#[test]
fn who_does_not_leave_in_time_is_killed() {
    let mut run = Run::start(ranked(2, STUBBORN).env("BURN_DIST_GRACE", "0.3"));
    run.until("ready", 2);
    run.signal(Signal::TERM);
    let ended = run.end();
    assert_eq!(ended.code, Some(137), "{}", ended.err);
    assert!(
        ended.err.contains("ranks 0,1 are still there: SIGKILL"),
        "{}",
        ended.err
    );
}

#[test]
fn a_second_interrupt_kills() {
    if !is_heard(Signal::INT) {
        return;
    }
    let mut run = Run::start(&mut ranked(2, STUBBORN));
    run.until("ready", 2);
    run.signal(Signal::INT);
    run.until("SIGINT: ranks 0,1 may finish within 30s", 1);
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!(ended.code, Some(137), "{}", ended.err);
    assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
}

#[test]
fn nothing_outlives_a_killed_launcher() {
    // It cannot tidy up any more.
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(ranked(3, STUBBORN).env("TMPDIR", folder.path()));
    run.until("ready", 3);
    run.signal(Signal::KILL);
    run.gone();
}

#[test]
fn a_hangup_that_was_to_be_ignored_is_ignored() {
    let path = env!("CARGO_BIN_EXE_burn-dist-run");
    let script = "echo ready; sleep 0.5; echo done";
    let mut command = std::process::Command::new("sh");
    let shell = format!("trap '' HUP; exec {path} -- sh -c '{script}'");
    let mut run = Run::start(command.args(["-c", &shell]));
    run.until("ready", 1);
    run.signal(Signal::HUP);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(ended.lines(), ["[0]: done", "[0]: ready"]);
}
