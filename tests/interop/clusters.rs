//! Environments as schedulers and operators set them, without these programs.

use super::process::command;
use super::training::{Training, example};
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of this host that is free, and the next one with it.
pub(super) fn port(among: RangeInclusive<u16>) -> u16 {
    // Tests run side by side, as threads and as processes; each looks somewhere else.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let many = among.end() - among.start();
    let first = (std::process::id() % u32::from(many)) as u16;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let step = NEXT.fetch_add(2, Ordering::Relaxed);
        let port = among.start() + first.wrapping_add(step) % many;
        if free(port) && free(port + 1) {
            return port;
        }
    }
}

/// Starts the example twice, each in its own environment, and expects one world of two ranks.
fn expect_two(name: &str, flags: &str, variables: impl Fn(usize) -> String) {
    let start = |rank: usize| {
        let mut command = command(example(), &variables(rank));
        command.args(flags.split_whitespace());
        command
    };
    Training::new().expect_of_threads(2, name, vec![start(0), start(1)]);
}

#[test]
fn tasks_of_a_slurm_step() {
    let job = 70_000 + u32::from(port(15_000..=24_998)) - 15_000;
    expect_two("srun", "", |task| {
        format!(
            "SLURM_PROCID={task} SLURM_LOCALID={task} SLURM_NODEID=0 SLURM_STEP_ID=0 \
             SLURM_NTASKS=2 SLURM_NNODES=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 \
             SLURM_STEP_TASKS_PER_NODE=2 SLURM_TASKS_PER_NODE=2 SLURM_STEP_NODELIST=localhost \
             SLURM_JOB_NODELIST=localhost SLURM_JOB_ID={job} SLURM_JOB_NAME=train"
        )
    });
}

#[test]
fn processes_as_lightning_counts_them() {
    let port = port(30_000..=32_000);
    expect_two("lightning", "", |node| {
        format!("NODE_RANK={node} WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={port}")
    });
}

#[test]
fn plain_ranks_of_a_script() {
    let port = port(30_000..=32_000);
    expect_two("script", "", |rank| {
        let world = format!("WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT={port}");
        format!("RANK={rank} LOCAL_RANK={rank} {world}")
    });
}

#[test]
fn pods_of_kubeflow_that_start_their_ranks() {
    let port = port(30_000..=32_000);
    expect_two("kubeflow", "", |pod| {
        format!(
            "PET_NNODES=2 PET_NPROC_PER_NODE=1 PET_NODE_RANK={pod} PET_MASTER_ADDR=127.0.0.1 \
             PET_MASTER_PORT={port} WORLD_SIZE=2 RANK={pod} MASTER_ADDR=localhost \
             MASTER_PORT={port}"
        )
    });
}

#[test]
fn one_pod_of_kubeflow_with_two_ranks() {
    let pod = command(
        example(),
        "PET_NPROC_PER_NODE=2 PET_NNODES=1 PET_NODE_RANK=0",
    );
    Training::new().expect_of_threads(2, "pod", vec![pod]);
}

#[test]
fn pods_of_a_leader_worker_set() {
    let flags = format!("--master-port {}", port(30_000..=32_000));
    expect_two("group", &flags, |pod| {
        format!("LWS_GROUP_SIZE=2 LWS_WORKER_INDEX={pod} LWS_LEADER_ADDRESS=localhost")
    });
}

#[test]
fn pods_of_an_indexed_job() {
    let port = port(30_000..=32_000);
    let flags =
        format!("--nnodes=2 --nproc_per_node=1 --master_addr=localhost --master_port={port}");
    expect_two("job", &flags, |pod| format!("JOB_COMPLETION_INDEX={pod}"));
}
