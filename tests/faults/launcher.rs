//! Faults of the launcher, and its reaction to faults of its ranks.

use super::process::{Group, send};
use std::time::{Duration, Instant};

/// From the fault to the end of the launcher.
const LIMIT: Duration = Duration::from_secs(12);

/// A launcher whose heartbeat and grace are beyond the limit: ranks end by themselves, and at once.
fn launcher(name: &str, act: &str) -> Group {
    let mut group = Group::new(name);
    group.set("BURN_DIST_HEARTBEAT", 20);
    group.set("BURN_DIST_FAIL_GRACE", 20);
    group.set("FAULTS_ACT", act);
    group.set("FAULTS_FAULTY", 1);
    group
}

#[test]
fn ranks_die_with_their_launcher() {
    for phase in ["rendezvous", "forward", "backward", "between", "exit"] {
        let mut group = launcher(&format!("kill of the launcher, {phase}"), phase);
        if phase == "backward" {
            group.set("FAULTS_LATE", 2);
        }
        group.launcher(3);
        group.until_file("at-1");
        if phase == "between" {
            // Not even one that is stopped stays.
            send(group.pid_in("at-1"), "STOP");
        }
        let since = group.signal(0, "KILL");
        group.gone();
        group.say(since.elapsed());
    }
}

#[test]
fn a_killed_rank_is_found_among_those_that_follow_it() {
    let mut group = launcher("kill of a launched rank", "forward");
    group.launcher(3);
    group.until_file("at-1");
    let faulty = group.pid_in("at-1");
    let since = Instant::now();
    send(faulty, "KILL");
    let took = group.ends(&[0], since, LIMIT);
    group.say(took);
    group.expect_code(0, 137);
    let words = ["rank 1 on ", "was killed by signal 9 (SIGKILL)"];
    group.expect(&group.error(0), &words);
    let text = group.all[0].text();
    let story = [
        "[0]: error: rank 1 is lost",
        "[2]: error: rank 1 is lost",
        "ranks 0,2 wait in all_gather of blocks.3 #",
        "step 2 (group 0-2) for rank 1",
        "look at rank 1 first",
    ];
    group.expect(&text, &story);
    group.gone();
}

/// Has the launcher end a rank that does not end by itself. Within twice the grace period the others write
/// their records before they are killed with it.
fn with_grace(mut group: Group) -> Group {
    group.set("BURN_DIST_FAIL_GRACE", 1.5);
    group
}

#[test]
fn the_launcher_kills_a_stopped_rank() {
    // Side by side, since they mostly wait.
    std::thread::scope(|scope| {
        for faulty in [1, 0] {
            scope.spawn(move || stop_launched(faulty));
        }
    });
}

fn stop_launched(faulty: usize) {
    let name = format!("stop of launched rank {faulty}");
    let mut group = with_grace(launcher(&name, "forward"));
    group.set("BURN_DIST_HEARTBEAT", 3);
    group.set("FAULTS_FAULTY", faulty);
    group.launcher(3);
    let file = format!("at-{faulty}");
    group.until_file(&file);
    let stopped = group.pid_in(&file);
    let since = Instant::now();
    send(stopped, "STOP");
    let took = group.ends(&[0], since, LIMIT);
    group.say(took);
    let lost = format!("rank {faulty} is lost: no sign of life for 3s");
    group.expect(&group.error(0), &[&lost]);
    let wait = "wait in all_gather of blocks.3 #";
    let first = format!("look at rank {faulty} first");
    group.expect(&group.all[0].text(), &[wait, &first]);
    group.gone();
}

#[test]
fn a_rank_that_hangs_is_named() {
    let mut group = with_grace(launcher("a rank that hangs", "forward"));
    // Of every collective, also of those before in which a rank may only be late.
    group.set("BURN_DIST_TIMEOUT", 3);
    group.launcher(3);
    group.until_file("at-1");
    let took = group.ends(&[0], Instant::now(), LIMIT);
    group.say(took);
    let words = ["all_gather of blocks.3 #", ", step 2", "for rank(s) [1]"];
    group.expect(&group.error(0), &words);
    group.expect(&group.all[0].text(), &["look at rank 1 first"]);
    group.gone();
}

#[test]
fn the_launcher_reports_the_errors_of_its_ranks() {
    for (act, code, words) in [
        ("panic", 1, "rank 1 panicked: a bug of rank 1"),
        ("error", 1, "no more disk"),
        ("code", 3, "rank 1 on "),
        ("abort", 134, "(SIGABRT)"),
        ("length", 1, "rank 1 runs all_reduce(Sum) of metric"),
    ] {
        let mut group = launcher(&format!("a launched rank's {act}"), act);
        let since = Instant::now();
        group.launcher(3);
        group.ends(&[0], since, LIMIT);
        group.expect_code(0, code);
        group.expect(&group.error(0), &["rank 1 ", words]);
        group.gone();
    }
}

/// The steps after which the ranks left.
fn left_after(group: &Group) -> Vec<String> {
    let files = group.files("ended-at-");
    files
        .iter()
        .map(|f| f.rsplit_once('-').unwrap().0.to_owned())
        .collect()
}

#[test]
fn all_finish_their_step_when_the_launcher_is_told_to_stop() {
    let mut group = launcher("SIGTERM to the launcher", "stop");
    group.launcher(3);
    for rank in 0..3 {
        group.until_file(&format!("at-{rank}"));
    }
    let since = group.signal(0, "TERM");
    let took = group.ends(&[0], since, LIMIT);
    group.say(took);
    group.expect_code(0, 0);
    let left = left_after(&group);
    let same = left.len() == 3 && left.iter().all(|step| *step == left[0]);
    group.check(same, || format!("they left after {left:?}"));
    group.gone();
}

#[test]
fn all_finish_their_step_when_one_rank_is_told_to_stop() {
    let mut group = launcher("SIGTERM to one rank", "stop");
    group.world(3);
    for rank in 0..3 {
        group.until_file(&format!("at-{rank}"));
    }
    let since = group.signal(2, "TERM");
    let took = group.ends(&[0, 1, 2], since, LIMIT);
    group.say(took);
    (0..3).for_each(|rank| group.expect_code(rank, 0));
    let left = left_after(&group);
    let same = left.len() == 3 && left.iter().all(|step| *step == left[0]);
    group.check(same, || format!("they left after {left:?}"));
    group.gone();
}

#[test]
fn sighup_ends_ranks_that_are_threads_after_their_step() {
    for signal in ["HUP", "TERM", "INT"] {
        let mut group = launcher(&format!("SIG{signal} to a process of threads"), "stop");
        group.threads();
        group.until_file("at-0");
        let since = group.signal(0, signal);
        let took = group.ends(&[0], since, LIMIT);
        group.say(took);
        group.expect_code(0, 0);
        group.check(left_after(&group).len() == 1, || "it left no word".into());
        group.gone();
    }
}

#[test]
fn the_next_launcher_removes_folders_of_a_killed_one() {
    let mut group = launcher("a launcher that is killed", "stop");
    // Somebody's own folder, of such a name.
    let own = group.file("burn-dist-mine");
    std::fs::create_dir(&own).unwrap();
    group.launcher(3);
    for rank in 0..3 {
        group.until_file(&format!("at-{rank}"));
    }
    let since = group.signal(0, "KILL");
    group.ends(&[0], since, LIMIT);
    group.gone();
    let left = group.files("burn-dist-");
    group.check(left.len() == 2, || format!("it left {left:?}"));
    group.set("FAULTS_ACT", "nothing");
    group.launcher(3);
    group.ends(&[1], Instant::now(), LIMIT);
    group.expect_code(1, 0);
    let left = group.files("burn-dist-");
    group.check(left == ["burn-dist-mine"], || format!("it left {left:?}"));
    group.gone();
}

#[test]
fn a_rank_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let mut group = launcher("a program that ignores SIGTERM", "stubborn");
    group.set("BURN_DIST_GRACE", 0.5);
    group.launcher(3);
    for rank in 0..3 {
        group.until_file(&format!("at-{rank}"));
    }
    let since = group.signal(0, "TERM");
    let took = group.ends(&[0], since, LIMIT);
    group.say(took);
    let least = Duration::from_millis(450);
    group.check(took > least, || format!("killed after {took:?} already"));
    group.expect_code(0, 137);
    group.expect(
        &group.all[0].text(),
        &["ranks 0-2 are still there: SIGKILL"],
    );
    group.gone();
}
