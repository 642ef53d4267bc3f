//! Two hosts with a launcher each.

use super::clusters::port;
use super::network::Hosts;
use super::process::{Run, built};
use super::training::{Training, example};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The familiar flags.
fn flags(hosts: &Hosts, host: usize, port: u16) -> Vec<String> {
    let address = hosts.address;
    let line = format!(
        "--nnodes=2 --nproc_per_node=2 --node_rank={host} --master_addr={address} \
         --master_port={port}"
    );
    line.split_whitespace().map(str::to_owned).collect()
}

/// The example as its own launcher.
fn itself(hosts: &Hosts, host: usize, port: u16, variables: &str) -> Command {
    let mut command = hosts.command(host, example(), variables);
    command.args(flags(hosts, host, port));
    command
}

/// The example under the library's launcher.
fn launched(hosts: &Hosts, host: usize, port: u16, variables: &str) -> Command {
    let launcher: PathBuf = built(&format!("burn-dist-run{}", std::env::consts::EXE_SUFFIX));
    let mut command = hosts.command(host, launcher, variables);
    command.args(flags(hosts, host, port)).arg(example());
    command
}

#[test]
fn two_hosts_train_like_four_threads() {
    let starts = [
        ("itself", itself as fn(&_, _, _, &_) -> _),
        ("burn-dist-run", launched),
    ];
    for (name, start) in starts {
        let hosts = Hosts::new();
        // One that is free here too, should both hosts be this one.
        let port = port(30_000..=32_000);
        let commands = [0, 1].map(|host| start(&hosts, host, port, "")).into();
        Training::new().expect_of_threads(4, name, commands);
        // Ranks of one host share memory, those of two use the cable: 3 steps, 2 ranks a host,
        // 2 of 3 peers elsewhere, 1.85 MB per rank and step, and the evaluation's gathers.
        for sent in [0, 1].iter().filter_map(|host| hosts.sent(*host)) {
            let [home, cable] = sent;
            assert!(
                home < 200_000,
                "{sent:?} bytes to itself and over the cable"
            );
            assert!((7_400_000..15_000_000).contains(&cable), "{sent:?}");
        }
    }
}

#[test]
fn several_hosts_without_a_secret_get_one_warning() {
    let training = Training::new();
    let secret = "BURN_DIST_SECRET=0123456789abcdef0123456789abcdef";
    for (save, variables, warned) in [
        // The logger is off.
        (
            "silent",
            "RUST_LOG=off",
            Some("warning: the ranks are on several hosts, and "),
        ),
        (
            "number",
            "SLURM_JOB_ID=1234567",
            Some("BURN_DIST_SECRET is not set (a job's number is"),
        ),
        (
            "short",
            "BURN_DIST_SECRET=hush",
            Some("BURN_DIST_SECRET has 4 bytes"),
        ),
        ("secret", secret, None),
    ] {
        let hosts = Hosts::new();
        let port = port(30_000..=32_000);
        let start = |host| {
            let mut command = itself(&hosts, host, port, variables);
            Run::start(command.args(training.args(save)))
        };
        let ended = [0, 1].map(start).map(Run::end);
        assert!(ended.iter().all(|e| e.code == Some(0)), "{ended:#?}");
        let err = ended.map(|ended| ended.err).concat();
        let lines = err.matches("the ranks are on several hosts").count();
        assert_eq!(lines, usize::from(warned.is_some()), "{save}: {err}");
        assert!(
            warned.is_none_or(|words| err.contains(words)),
            "{save}: {err}"
        );
    }
}

#[test]
fn rank_0_may_be_given_localhost_as_its_address() {
    // Kubeflow gives the first pod this address, and many systems resolve their own name to 127.0.1.1.
    let hosts = match Hosts::apart() {
        Ok(hosts) => hosts,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let training = Training::new();
    let command = |rank: usize| {
        let address = ["localhost", hosts.address][rank.min(1)];
        let world = "WORLD_SIZE=2 MASTER_PORT=23456 BURN_DIST_JOIN_TIMEOUT=20";
        let variables = format!("RANK={rank} MASTER_ADDR={address} {world}");
        hosts.command(rank, example(), &variables)
    };
    training.expect_of_threads(2, "localhost", vec![command(0), command(1)]);
}

#[test]
fn ranks_parted_by_a_broken_network_all_end_and_name_each_other() {
    let hosts = match Hosts::apart() {
        Ok(hosts) => hosts,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let training = Training::new();
    let port = port(30_000..=32_000);
    let start = |host| {
        let mut command = itself(&hosts, host, port, "BURN_DIST_HEARTBEAT=3");
        Run::start(command.args(training.endless()))
    };
    let (mut first, second) = (start(0), start(1));
    first.until("epoch 3: ");
    hosts.cut();
    let cut = Instant::now();
    for (run, there) in [(first, [2, 3]), (second, [0, 1])] {
        let ended = run.end();
        let took = cut.elapsed();
        assert!(took < Duration::from_secs(12), "{took:?}: {ended:#?}");
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        // The errors of both ranks of this host name a lost rank of the other host.
        let lost = |rank: usize| format!("error: rank {rank} is lost: no sign of life for 3s");
        let named = there.map(|rank| ended.err.matches(&lost(rank)).count());
        let own = ended.err.lines().filter(|line| line.starts_with('['));
        let said = own.filter(|line| line.contains("error: rank ")).count();
        assert!(said == 2 && named.iter().sum::<usize>() == 2, "{ended:#?}");
    }
}
