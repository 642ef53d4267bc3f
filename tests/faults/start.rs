//! Ranks started without a launcher, with wrong environment variables.

use super::process::Group;
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// From the fault to the last end, below the heartbeat, so that it is not what ends them.
const LIMIT: Duration = Duration::from_secs(12);

fn group(name: &str) -> Group {
    let mut group = Group::new(name);
    group.set("BURN_DIST_HEARTBEAT", 20);
    group
}

/// Checks that all end in time, and that each error contains these words.
fn expect(group: &mut Group, processes: &[usize], since: Instant, words: &[&str]) {
    let took = group.ends(processes, since, LIMIT);
    group.say(took);
    for process in processes {
        group.expect_code(*process, 1);
        group.expect(&group.error(*process), words);
    }
}

#[test]
fn another_world_size() {
    let mut group = group("another world size");
    group.rank(0, 3);
    group.rank(2, 3);
    group.until_joined(2);
    let since = Instant::now();
    group.rank(1, 4);
    let words = [
        "rank 1 could not join",
        "it was started for a world of 4, rank 0 for 3",
    ];
    expect(&mut group, &[0, 1, 2], since, &words);
    group.gone();
}

#[test]
fn two_processes_of_one_rank() {
    let mut group = group("two processes of one rank");
    group.rank(0, 3);
    group.rank(1, 3);
    group.until_joined(2);
    let since = Instant::now();
    group.rank(1, 3);
    let words = [
        "rank 1 could not join",
        "two processes say that they are rank 1: process ",
    ];
    expect(&mut group, &[0, 1, 2], since, &words);
    for process in [1, 2] {
        let pid = format!("process {} on ", group.all[process].pid());
        group.expect(&group.error(0), &[&pid]);
    }
    group.gone();
}

#[test]
fn a_second_process_of_a_running_rank() {
    let mut group = group("a late second process of a rank");
    group.set("FAULTS_ACT", "between");
    group.set("FAULTS_FAULTY", 1);
    group.world(3);
    group.until_file("at-1");
    let since = Instant::now();
    group.rank(2, 3);
    let words = [
        "rank 2 could not join",
        "two processes say that they are rank 2",
    ];
    expect(&mut group, &[3], since, &words);
    let ended = (0..3).any(|i| group.all[i].look());
    group.check(!ended, || "it disturbs the others".into());
}

#[test]
fn a_port_in_use() {
    let mut group = group("a port in use");
    let taken = TcpListener::bind(("127.0.0.1", group.port)).unwrap();
    std::thread::spawn(move || {
        for mut socket in taken.incoming().flatten() {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let since = Instant::now();
    group.world(3);
    let address = format!("127.0.0.1:{}", group.port);
    expect(
        &mut group,
        &[0, 1, 2],
        since,
        &[&address, "choose another --master-port"],
    );
    group.expect(&group.error(0), &["in use"]);
    group.expect(&group.error(1), &["rank 1 could not join", "not burn-dist"]);
    group.gone();
}

#[test]
fn an_unreachable_master() {
    let mut group = group("an unreachable master");
    group.set("BURN_DIST_JOIN_TIMEOUT", 1);
    let since = Instant::now();
    group.rank(1, 3);
    group.rank(2, 3);
    let address = format!("127.0.0.1:{}", group.port);
    let words = ["could not join its world at", &address, "is rank 0 running"];
    expect(&mut group, &[0, 1], since, &words);
    group.expect(&group.error(0), &["rank 1 could not"]);
    group.gone();
}

#[test]
fn a_rank_that_never_comes() {
    let mut group = group("a rank that never comes");
    // By then the other one has joined, however late its process starts.
    group.set("BURN_DIST_JOIN_TIMEOUT", 4);
    let since = Instant::now();
    group.rank(0, 3);
    group.rank(1, 3);
    expect(
        &mut group,
        &[0, 1],
        since,
        &["rank(s) [2] did not", "BURN_DIST_JOIN_TIMEOUT"],
    );
    group.gone();
}
