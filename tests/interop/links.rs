//! Nodes with a slow link between them: `--link` from the command line, and beside the network's own shaping.

use super::clusters::port;
use super::network::Hosts;
use super::process::{Ended, Run, built, command};
use super::training::{Training, example};
use burn_dist::comm::{Reduce, Span, SpanMut};
use burn_dist::launch::{Flags, LinkShape};
use std::process::Command;
use std::time::{Duration, Instant};

const LINK: &str = "100mbit,5ms";

/// One of two nodes on this host.
fn node(mut command: Command, node: usize, ranks: usize, port: u16) -> Command {
    let line = format!(
        "--nnodes 2 --nproc-per-node {ranks} --node-rank {node} --master-addr 127.0.0.1 \
         --master-port {port} --link {LINK}"
    );
    command.args(line.split_whitespace());
    command
}

#[test]
fn two_nodes_on_one_host_train_like_threads_behind_a_link() {
    let start = port(30_000..=32_000);
    let commands = [0, 1].map(|i| node(command(example(), ""), i, 1, start));
    Training::new().expect_of_threads(2, "itself", commands.into());
    // With a program that is told by the launcher's variable alone, and two ranks on each node.
    let start = port(30_000..=32_000);
    let launcher = built(&format!("burn-dist-run{}", std::env::consts::EXE_SUFFIX));
    let commands = [0, 1].map(|i| {
        let mut command = node(command(&launcher, ""), i, 2, start);
        command.arg(example());
        command
    });
    Training::new().expect_of_threads(4, "burn-dist-run", commands.into());
}

#[test]
fn a_node_that_is_killed_is_noticed_through_the_link() {
    let training = Training::new();
    let port = port(30_000..=32_000);
    let start = |i| {
        let mut command = node(command(example(), "BURN_DIST_HEARTBEAT=3"), i, 1, port);
        Run::start(command.args(training.endless()))
    };
    let (mut first, second) = (start(0), start(1));
    first.until("epoch 1: ");
    drop(second);
    let killed = Instant::now();
    let ended = first.end();
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}: {ended:#?}");
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.err.contains("rank 1 is lost"), "{ended:#?}");
}

#[test]
fn links_that_make_no_sense_are_refused_at_the_start() {
    let run = |line: &str, variables: &str| -> Ended {
        let mut command = command(example(), variables);
        Run::start(command.args(line.split_whitespace())).end()
    };
    let spelling = ["--link", "1gbit,5ms", "kbit, mbit or gbit"];
    let by_variable = "BURN_DIST_LINK=1gbit,5ms";
    for (line, variables, code, words) in [
        ("--nnodes 2 --link 0", "", 2, spelling),
        ("--nnodes 2 --link 1gbit", "", 2, spelling),
        ("--nnodes 2 --link 5mb,5ms", "", 2, spelling),
        (
            "--ranks 2 --link 1gbit,5ms",
            "",
            1,
            ["--link", "--nnodes 2", "threads"],
        ),
        (
            "--nproc-per-node 2 --link 1gbit,5ms",
            "",
            1,
            ["--link", "--nnodes 2", "one node"],
        ),
        (
            "--ranks 2",
            by_variable,
            1,
            [by_variable, "--nnodes 2", "threads"],
        ),
        (
            "--nnodes 2 --node-rank 0 --master-addr 127.0.0.1",
            "BURN_DIST_LINK=5ms",
            1,
            ["BURN_DIST_LINK", "1gbit,5ms", "\"5ms\""],
        ),
    ] {
        let ended = run(line, variables);
        assert_eq!(ended.code, Some(code), "{line}: {ended:#?}");
        assert!(
            words.iter().all(|word| ended.err.contains(word)),
            "{line}: {ended:#?}"
        );
    }
}

/// Bytes that a rank sends in the collective that is measured.
const BYTES: usize = 2_000_000;

/// The name of this test program's test that is a rank, and the variable that makes it one.
const RANK: &str = "links::a_rank_that_measures";
const MEASURES: &str = "LINKS_MEASURES";

#[test]
#[ignore = "a rank of the test below"]
fn a_rank_that_measures() {
    if std::env::var_os(MEASURES).is_none() {
        return;
    }
    let measured = burn_dist::launch(&Flags::default()).run(|world| {
        let comm = world.comm();
        let mut shortest = f64::MAX;
        for _ in 0..8 {
            let mine = vec![comm.rank() as u8; BYTES];
            let mut all = vec![9u8; BYTES * comm.size()];
            comm.barrier(&"before".into())?;
            let since = Instant::now();
            comm.all_gather(&"all".into(), Span::of(&mine), SpanMut::of(&mut all))?;
            let mut took = [since.elapsed().as_secs_f64()];
            comm.all_reduce(&"time".into(), Reduce::Max, SpanMut::of(&mut took))?;
            shortest = shortest.min(took[0]);
        }
        println!("\ntook {shortest}");
        Ok(())
    });
    measured.unwrap();
}

/// Seconds of the collective between two hosts.
fn measure(hosts: &Hosts, variables: &str) -> f64 {
    let port = port(30_000..=32_000);
    let address = hosts.address;
    let start = |rank: usize| {
        let variables = format!(
            "{MEASURES}=1 BURN_DIST_RANK={rank} BURN_DIST_WORLD_SIZE=2 BURN_DIST_LOCAL_RANK=0 \
             BURN_DIST_LOCAL_WORLD_SIZE=1 BURN_DIST_MASTER_ADDR={address} \
             BURN_DIST_MASTER_PORT={port} RAYON_NUM_THREADS=1 {variables}"
        );
        let mut command = hosts.command(rank, std::env::current_exe().unwrap(), &variables);
        Run::start(command.args(["--exact", RANK, "--ignored", "--nocapture"]))
    };
    let ended = [0, 1].map(start).map(Run::end);
    let took = |ended: &Ended| {
        let line = ended
            .out
            .lines()
            .find_map(|line| line.strip_prefix("took "));
        line.and_then(|seconds| seconds.parse().ok())
    };
    let took = ended.iter().filter_map(took).reduce(f64::max);
    took.unwrap_or_else(|| panic!("{ended:#?}"))
}

#[test]
fn a_link_is_like_the_networks_own_shaping() {
    let hosts = match Hosts::apart() {
        Ok(hosts) => hosts,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    // Without netem's delay there may still be the token bucket.
    let shapings = [
        (LINK, "netem rate 100mbit delay 5ms limit 10000"),
        ("100mbit,1us", "tbf rate 100mbit burst 16kb latency 500ms"),
    ];
    for (link, qdisc) in shapings {
        match hosts.shape(qdisc) {
            Ok(()) => {
                let network = measure(&hosts, "");
                hosts.unshape();
                let ours = measure(&hosts, &format!("BURN_DIST_LINK={link}"));
                let shape: LinkShape = link.parse().unwrap();
                let formula = shape.time_of(BYTES as u64).as_secs_f64();
                println!(
                    "{qdisc}: {network:.4} s; --link {link}: {ours:.4} s; formula {formula:.4} s"
                );
                // The network counts the headers of packets too, and its TCP has to find the bandwidth first.
                let ratio = network / ours;
                assert!(
                    (0.8..1.6).contains(&ratio),
                    "{network} s by {qdisc}, {ours} s by --link"
                );
                assert!(ours >= formula, "{ours} s is less than {formula} s");
            }
            Err(why) => eprintln!("skipped: {why}"),
        }
    }
}
