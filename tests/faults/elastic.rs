//! A world of one host goes on with the ranks that are left when one is lost for good.

use super::process::Group;
use std::time::{Duration, Instant};

/// For a whole run, its starts and restarts.
const LIMIT: Duration = Duration::from_secs(30);

/// A launcher of at least two ranks of three, run to its end; rank 1 is faulty.
fn run(act: &str, nproc: &str, restarts: usize) -> Group {
    let mut group = Group::new(format!("{act}, {nproc}"));
    group.set("BURN_DIST_FAIL_GRACE", 2);
    group.set("FAULTS_ACT", act);
    group.set("FAULTS_FAULTY", 1);
    group.set("FAULTS_RESTARTS", restarts);
    group.set("FAULTS_REJOIN", 3);
    group.set("FAULTS_NPROC", nproc);
    let since = Instant::now();
    group.elastic_launcher();
    let took = group.ends(&[0], since, LIMIT);
    group.say(took);
    group.gone();
    group
}

/// The ranks that have ended well.
fn ended(group: &Group) -> Vec<String> {
    group.files("ended-at-")
}

#[test]
fn three_ranks_go_on_as_two() {
    // Rank 1 is killed, and its process ends before it has joined again.
    let group = run("lost", "2:3", 3);
    group.expect_code(0, 0);
    let ran: Vec<_> = (0..3)
        .map(|rank| format!("ran-3-of-3-at-restart-0-{rank}"))
        .collect();
    let left: Vec<_> = (0..2)
        .map(|rank| format!("ran-2-of-3-at-restart-2-{rank}"))
        .collect();
    let all = [left, ran].concat();
    group.check(group.files("ran-") == all, || {
        format!("{:?}", group.files("ran-"))
    });
    group.check(ended(&group) == ["ended-at-4-0", "ended-at-4-1"], || {
        "ends".into()
    });
    let lines = [
        "restart 1 of 3: 3 of 3 ranks\n",
        "restart 2 of 3: 2 of 3 ranks, rank 1 on ",
        "did not come up again within 3s",
    ];
    group.expect(&group.all[0].text(), &lines);
}

#[test]
fn a_rank_that_hangs_before_it_joins_is_given_up() {
    let group = run("stuck", "2:3", 2);
    group.expect_code(0, 0);
    group.check(ended(&group).len() == 2, || "ends".into());
    group.expect(
        &group.all[0].text(),
        &["restart 2 of 2: 2 of 3 ranks, rank 1 on "],
    );
}

#[test]
fn below_the_least_number_the_launcher_ends_with_an_error() {
    let group = run("dwindle", "2:3", 9);
    group.expect_code(0, 1);
    let words = [
        "the world cannot go on: rank 1 on ",
        "did not come up again within 3s",
        "1 rank is left, and 2 ranks are needed",
    ];
    group.expect(&group.error(0), &words);
    let starts = group.files("ran-2-of-3-at-restart-2-");
    group.check(starts.len() == 2, || format!("{starts:?}"));
}

#[test]
fn a_rank_that_comes_up_again_stays() {
    let group = run("restart", "2:3", 1);
    group.expect_code(0, 0);
    group.check(ended(&group).len() == 3, || "ends".into());
    let ran = group.files("ran-3-of-3-at-restart-1-");
    group.check(ran.len() == 3, || format!("{ran:?}"));
    group.expect(&group.all[0].text(), &["restart 1 of 1: 3 of 3 ranks\n"]);
}

#[test]
fn without_a_restart_left_the_ranks_error_is_the_launchers() {
    let group = run("relapse", "2:3", 1);
    group.expect_code(0, 137);
    group.expect(&group.error(0), &["rank 1 on ", "(SIGKILL)"]);
}

#[test]
fn an_epoch_goes_on_with_two_ranks_of_three_and_sees_each_sample_once() {
    let group = run("epoch", "2:3", 3);
    group.expect_code(0, 0);
    let ended = group.files("seen-by-");
    group.check(ended == ["seen-by-0-of-2", "seen-by-1-of-2"], || {
        format!("{ended:?}")
    });
    let every: Vec<String> = (0..super::epoch::SAMPLES).map(|n| n.to_string()).collect();
    let seen = std::fs::read_to_string(group.file("seen-by-0-of-2")).unwrap();
    group.check(seen == every.join(" "), || format!("seen: {seen}"));
}
