//! Open MPI, MPICH and torchrun, where they are installed.

use super::clusters::port;
use super::cores::{RECORD, expect_shared, two_cores};
use super::process::{Run, command, installed};
use super::training::{Training, example};
use std::path::PathBuf;

/// The torchrun that is to be tested, by this variable.
const TORCHRUN: &str = "BURN_DIST_TORCHRUN";

fn torchrun() -> Option<PathBuf> {
    let path = std::env::var_os(TORCHRUN).map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: {TORCHRUN} does not say where torchrun is");
    }
    path
}

/// `mpirun` of Open MPI, which may be installed beside others.
fn open_mpi() -> Option<PathBuf> {
    let found = installed("mpirun.openmpi").or_else(|| installed("mpirun"));
    if found.is_none() {
        eprintln!("skipped: Open MPI's mpirun is not installed");
    }
    found
}

/// `mpiexec` of MPICH.
fn mpich() -> Option<PathBuf> {
    let found = installed("mpiexec.hydra");
    if found.is_none() {
        eprintln!("skipped: MPICH's mpiexec is not installed");
    }
    found
}

#[test]
fn ranks_started_by_mpirun_use_their_own_transport() {
    let Some(mpirun) = open_mpi() else {
        return;
    };
    let training = Training::new();
    let mut command = command(mpirun, "OMPI_MCA_rmaps_base_oversubscribe=1");
    command.args(["--allow-run-as-root", "--oversubscribe", "-n", "2"]);
    command.arg(example());
    training.expect_of_threads(2, "mpirun", vec![command]);
}

#[test]
fn ranks_started_by_mpich_use_their_own_transport() {
    let Some(mpiexec) = mpich() else {
        return;
    };
    let mut command = command(mpiexec, "");
    command.args(["-n", "2"]).arg(example());
    Training::new().expect_of_threads(2, "mpiexec", vec![command]);
}

#[test]
fn ranks_bound_by_mpirun_use_all_their_cores() {
    let Some(mpirun) = open_mpi() else {
        return;
    };
    // Its own rule for two ranks is a core for each, where there are two.
    for (bind, sharing) in [("core", 1), ("none", 2)] {
        if sharing == 1 && !two_cores() {
            continue;
        }
        let mut command = command(&mpirun, RECORD);
        let options = "--allow-run-as-root --oversubscribe -n 2 --bind-to";
        command.args(options.split_whitespace()).arg(bind);
        command.arg(example());
        expect_shared(command, sharing);
    }
}

#[test]
fn ranks_bound_by_mpich_use_all_their_cores() {
    let Some(mpiexec) = mpich() else {
        return;
    };
    for (bind, sharing) in [("core", 1), ("none", 2)] {
        if sharing == 1 && !two_cores() {
            continue;
        }
        let mut command = command(&mpiexec, RECORD);
        command.args(["-n", "2", "-bind-to", bind]).arg(example());
        expect_shared(command, sharing);
    }
}

#[test]
fn torchrun_starts_the_ranks_of_one_host() {
    let Some(torchrun) = torchrun() else {
        return;
    };
    let mut command = command(torchrun, "");
    command.args(["--no-python", "--standalone", "--nproc_per_node=2"]);
    command.arg(example());
    Training::new().expect_of_threads(2, "torchrun", vec![command]);
}

#[test]
fn agents_of_torchrun_start_the_ranks_of_two_hosts() {
    let Some(torchrun) = torchrun() else {
        return;
    };
    let port = port(30_000..=32_000);
    let agent = |node: usize| {
        let mut command = command(&torchrun, "");
        let flags = format!(
            "--no-python --nnodes=2 --nproc_per_node=1 --node_rank={node} \
             --master_addr=127.0.0.1 --master_port={port}"
        );
        command.args(flags.split_whitespace()).arg(example());
        command
    };
    Training::new().expect_of_threads(2, "agents", vec![agent(0), agent(1)]);
}

#[test]
fn torchrun_shows_why_a_rank_failed() {
    let Some(torchrun) = torchrun() else {
        return;
    };
    let training = Training::new();
    let mut command = command(torchrun, "");
    command.args(["--no-python", "--standalone", "--nproc_per_node=2"]);
    let script =
        "test $RANK = 0 || { shift 2; set -- --data /nowhere \"$@\"; }; exec \"$EXAMPLE\" \"$@\"";
    command
        .env("EXAMPLE", example())
        .args(["sh", "-c", script, "sh"]);
    let ended = Run::start(command.args(training.endless())).end();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    // In its own summary, from the file in which the rank left its error.
    let (_, summary) = ended.err.split_once("Root Cause").unwrap();
    for words in [
        "error_file: /",
        "/nowhere: expected the folder cifar-10-batches-bin",
    ] {
        assert!(summary.contains(words), "{ended:#?}");
    }
}

/// The command lines that study B names, with the program's name exchanged; torchrun reads the words before it.
#[test]
fn torchrun_runs_the_commands_of_study_b() {
    let Some(torchrun) = torchrun() else {
        return;
    };
    let bert = example().with_file_name(format!("bert_fsdp{}", std::env::consts::EXE_SUFFIX));
    for (flags, arguments) in [
        (
            "--standalone --nnodes=1 --nproc_per_node=1",
            "--per-gpu-batch=1",
        ),
        (
            "--standalone --nnodes=1 --nproc_per_node=1",
            "--per_gpu_batch=1 --setup 1_1",
        ),
        (
            "--standalone --nnodes=1 --nproc_per_node=4",
            "--per_gpu_batch=1 --setup 1_4",
        ),
        (
            "--standalone --nnodes=1 --nproc_per_node=4",
            "--per_gpu_batch=16",
        ),
    ] {
        let mut command = command(&torchrun, "");
        command.arg("--no-python").args(flags.split_whitespace());
        command.arg(&bert).args(arguments.split_whitespace());
        // As they are, but for their length and their records.
        let ended = Run::start(command.args(["--steps", "2", "--log-to", "none"])).end();
        assert_eq!(ended.code, Some(0), "{arguments}: {ended:?}");
        assert!(ended.out.contains("throughput"), "{arguments}: {ended:?}");
    }
}
