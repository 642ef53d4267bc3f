//! A restarted world resumes from its last save.

use super::process::Group;
use std::time::{Duration, Instant};

/// For a whole run, below the heartbeat and the launcher's grace period, which should not be needed.
const LIMIT: Duration = Duration::from_secs(18);

/// A launcher that may start again once, run to its end.
fn run(act: &str, faulty: usize, transport: &str) -> Group {
    let mut group = Group::new(format!("{act} of rank {faulty}, {transport}"));
    group.set("BURN_DIST_TRANSPORT", transport);
    group.set("BURN_DIST_HEARTBEAT", 20);
    group.set("BURN_DIST_FAIL_GRACE", 20);
    group.set("FAULTS_ACT", act);
    group.set("FAULTS_FAULTY", faulty);
    group.set("FAULTS_RESTARTS", 1);
    let since = Instant::now();
    group.launcher(3);
    let took = group.ends(&[0], since, LIMIT);
    group.say(took);
    group.gone();
    group
}

fn parameters(group: &Group) -> Vec<String> {
    let read = |rank| std::fs::read_to_string(group.file(&format!("final-{rank}")));
    let all: Vec<_> = (0..3).map(|rank| read(rank).unwrap()).collect();
    assert!(all[0].lines().count() > 100);
    all
}

#[test]
fn a_restarted_run_equals_an_uninterrupted_one_bit_for_bit() {
    // A rank number outside of the world kills no process.
    let straight = run("restart", 9, "auto");
    straight.expect_code(0, 0);
    assert_eq!(straight.files("resumed-"), [""; 0]);
    let expected = parameters(&straight);
    for (faulty, transport) in [(1, "tcp"), (0, "shm")] {
        let group = run("restart", faulty, transport);
        group.expect_code(0, 0);
        let resumed = ["resumed-1-at-2-0", "resumed-1-at-2-1", "resumed-1-at-2-2"];
        assert_eq!(group.files("resumed-"), resumed);
        group.check(parameters(&group) == expected, || "other parameters".into());
        let text = group.all[0].text();
        group.expect(&text, &["look at rank", "restart 1 of 1"]);
    }
}

#[test]
fn a_run_that_fails_again_is_not_restarted() {
    let group = run("relapse", 2, "auto");
    group.expect_code(0, 137);
    group.expect(&group.error(0), &["rank 2 on ", "(SIGKILL)"]);
    let text = group.all[0].text();
    // The report of a start; which rank's end is noticed first depends on scheduling.
    let starts = text.matches("look at rank 2 first").count();
    group.check(starts == 2, || format!("{starts} starts failed"));
}
