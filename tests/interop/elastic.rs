//! Two hosts whose launchers agree before each start who takes part: one goes away, or comes back.

use super::clusters::port;
use super::network::Hosts;
use super::process::{Ended, Run, built};
use super::training::{Training, example};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Prints who it is, and ends when the test says so: well, or, as rank 0 of a given start, not.
const SCRIPT: &str = r#"
    echo "rank $RANK of $WORLD_SIZE, first $BURN_DIST_INITIAL_WORLD_SIZE, restart $BURN_DIST_RESTART_COUNT, host $GROUP_RANK of $GROUP_WORLD_SIZE"
    while [ ! -e "$FOLDER/go" ]; do
        if [ "$RANK" = 0 ] && [ -e "$FOLDER/fail-$BURN_DIST_RESTART_COUNT" ]; then exit 7; fi
        sleep 0.05
    done
"#;

/// The launcher of one host of one or two.
fn launcher(hosts: &Hosts, host: usize, port: u16, flags: &str, variables: &str) -> Command {
    let path = built(&format!("burn-dist-run{}", std::env::consts::EXE_SUFFIX));
    let variables = format!("BURN_DIST_HEARTBEAT=2 BURN_DIST_FAIL_GRACE=1 {variables}");
    let mut command = hosts.command(host, path, &variables);
    let address = hosts.address;
    let line = format!(
        "{flags} --max-restarts=2 --node_rank={host} --master_addr={address} --master_port={port}"
    );
    command.args(line.split_whitespace());
    command
}

/// A launcher of the script.
fn scripted(hosts: &Hosts, host: usize, port: u16, folder: &Path, flags: &str) -> Run {
    let variables = format!("FOLDER={}", folder.display());
    let mut command = launcher(hosts, host, port, flags, &variables);
    Run::start(command.args(["sh", "-c", SCRIPT]))
}

fn expect(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:#?}");
    for word in words {
        assert!(ended.err.contains(word), "{word:?} is not in {ended:#?}");
    }
}

#[test]
fn a_host_that_goes_away_for_good_leaves_the_other_to_go_on_alone() {
    let hosts = match Hosts::apart() {
        Ok(hosts) => hosts,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let training = Training::new();
    let port = port(30_000..=32_000);
    let start = |host| {
        let mut command = launcher(&hosts, host, port, "--nnodes=1:2 --rejoin=2", "");
        command.arg(example()).args(training.endless());
        Run::start(command.args(["--steps", "800"]))
    };
    let (mut first, second) = (start(0), start(1));
    first.until("fsdp over 2 rank(s)");
    first.until("epoch 3: ");
    hosts.cut();
    let cut = Instant::now();
    first.until("fsdp over 1 rank(s)");
    let lost = second.end();
    let took = cut.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}: {lost:#?}");
    let words = [
        "the world cannot go on: node rank 0 at 10.77.0.1:",
        "the host of the rendezvous, is lost: no sign of life for 2s",
        "not back after 2s",
        "1 host is left, and 1 host, which must be node rank 0, is needed",
    ];
    expect(&lost, 1, &words);
    let alone = first.end();
    let line = "restart 1 of 2: 1 of 2 ranks, rank 1 on ";
    let why = "is not back after 2s (no sign of life for 2s)";
    expect(&alone, 0, &[line, why]);
    // Two passes a step keep the global batch.
    assert!(
        !alone.err.contains("the global batch changes"),
        "{alone:#?}"
    );
}

#[test]
fn without_the_host_of_the_rendezvous_the_other_ends_with_an_error() {
    let hosts = Hosts::new();
    let folder = tempfile::tempdir().unwrap();
    let port = port(30_000..=32_000);
    let start = |host| scripted(&hosts, host, port, folder.path(), "--nnodes=1:2 --rejoin=2");
    let (mut first, mut second) = (start(0), start(1));
    first.until("rank 0 of 2");
    second.until("rank 1 of 2");
    drop(first);
    let since = Instant::now();
    let ended = second.end();
    let took = since.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}: {ended:#?}");
    let words = [
        "the world cannot go on: node rank 0 at ",
        "the host of the rendezvous, is lost: its launcher closed the connection",
    ];
    expect(&ended, 1, &words);
}

#[test]
fn a_host_that_comes_back_takes_part_again() {
    let hosts = Hosts::new();
    let folder = tempfile::tempdir().unwrap();
    let port = port(30_000..=32_000);
    let start = |host, flags| scripted(&hosts, host, port, folder.path(), flags);
    let flags = "--nnodes=1:2 --nproc-per-node=2 --rejoin=6";
    let (mut first, mut second) = (start(0, flags), start(1, flags));
    first.until("rank 1 of 4, first 4, restart 0, host 0 of 2");
    second.until("rank 3 of 4, first 4, restart 0, host 1 of 2");
    // In time: the world waits for it.
    drop(second);
    let mut second = start(1, flags);
    first.until("rank 0 of 4, first 4, restart 1, host 0 of 2");
    second.until("rank 2 of 4, first 4, restart 1, host 1 of 2");
    std::fs::write(folder.path().join("go"), "").unwrap();
    expect(&first.end(), 0, &["restart 1 of 2: 4 of 4 ranks\n"]);
    expect(&second.end(), 0, &[]);
}

#[test]
fn a_host_that_comes_back_late_takes_part_from_the_next_restart_on() {
    let hosts = Hosts::new();
    let folder = tempfile::tempdir().unwrap();
    let port = port(30_000..=32_000);
    let flags = "--nnodes=1:2 --rejoin=1";
    let start = |host| scripted(&hosts, host, port, folder.path(), flags);
    let (mut first, mut second) = (start(0), start(1));
    first.until("rank 0 of 2, first 2, restart 0");
    second.until("rank 1 of 2, first 2, restart 0");
    drop(second);
    first.until("rank 0 of 1, first 2, restart 1, host 0 of 1");
    let mut second = start(1);
    // It may well take long to come: the failure is what makes the others notice it.
    std::thread::sleep(Duration::from_secs(1));
    std::fs::write(folder.path().join("fail-1"), "").unwrap();
    first.until("rank 0 of 2, first 2, restart 2, host 0 of 2");
    second.until("rank 1 of 2, first 2, restart 2, host 1 of 2");
    std::fs::write(folder.path().join("go"), "").unwrap();
    let lines = [
        "restart 1 of 2: 1 of 2 ranks, rank 1 on ",
        "restart 2 of 2: 2 ranks instead of 1, ",
        " takes part with 1 rank\n",
    ];
    expect(&first.end(), 0, &lines);
    expect(
        &second.end(),
        0,
        &["restart 2 of 2: 2 ranks instead of 1, "],
    );
}

#[test]
fn below_the_least_number_of_hosts_the_rest_ends_with_an_error() {
    let hosts = Hosts::new();
    let folder = tempfile::tempdir().unwrap();
    let port = port(30_000..=32_000);
    let start = |host| scripted(&hosts, host, port, folder.path(), "--nnodes=2:3 --rejoin=1");
    let (mut first, mut second) = (start(0), start(1));
    // The third never comes, and is not needed.
    first.until("rank 0 of 2, first 2, restart 0");
    second.until("rank 1 of 2, first 2, restart 0");
    drop(second);
    let ended = first.end();
    let words = [
        "start with 2 ranks, node rank 2 has not come\n",
        "the world cannot go on: rank 1 on ",
        "is not back after 1s (its launcher closed the connection); 1 host is left, and 2 hosts are needed",
    ];
    expect(&ended, 1, &words);
}

#[test]
fn a_launcher_that_does_not_belong_to_the_run_is_turned_away() {
    let hosts = Hosts::new();
    let folder = tempfile::tempdir().unwrap();
    let port = port(30_000..=32_000);
    let flags = "--nnodes=1:2 --rejoin=1";
    let mut first = scripted(&hosts, 0, port, folder.path(), flags);
    let other = scripted(
        &hosts,
        1,
        port,
        folder.path(),
        "--nnodes=2:2 --nproc-per-node=1:2",
    );
    let words = [
        "node rank 1, calling node rank 0 at ",
        "with --nnodes 2:2, node rank 0 with 1:2",
    ];
    expect(&other.end(), 1, &words);
    let variables = "BURN_DIST_SECRET=another";
    let mut command = launcher(&hosts, 1, port, flags, variables);
    let ended = Run::start(command.args(["sh", "-c", SCRIPT])).end();
    expect(
        &ended,
        1,
        &["node rank 1, calling node rank 0 at ", "has another secret"],
    );
    first.until("rank 0 of 1, first 1, restart 0");
    std::fs::write(folder.path().join("go"), "").unwrap();
    expect(
        &first.end(),
        0,
        &["start with 1 rank, node rank 1 has not come\n"],
    );
}
