//! The number of compute threads of ranks that are bound to cores.

use super::process::{Run, built, command, installed};
use super::training::{Training, example};
use std::process::Command;

/// A log filter with which each rank logs its number of compute threads.
pub(super) const RECORD: &str = "RUST_LOG=info,burn_dist=debug";

/// Whether two ranks can have a core each.
pub(super) fn two_cores() -> bool {
    let two = std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2);
    if !two {
        eprintln!("skipped: this machine has one core");
    }
    two
}

/// The log line of a rank: threads, cores, and how many ranks may run on one of them.
fn said(line: &str) -> Option<[usize; 3]> {
    let (before, after) = line.split_once(" compute thread(s) on ")?;
    let (own, sharing) = after.split_once(" core(s), shared by up to ")?;
    let threads = before.rsplit(' ').next()?;
    let sharing = sharing.split(' ').next()?;
    Some([threads, own, sharing].map(|number| number.parse().unwrap()))
}

/// Runs two ranks, and expects each to compute on its part of its cores.
pub(super) fn expect_shared(mut command: Command, sharing: usize) {
    let training = Training::new();
    let ended = Run::start(command.args(training.args("cores"))).end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let ranks: Vec<_> = ended.err.lines().filter_map(said).collect();
    assert_eq!(ranks.len(), 2, "{ended:#?}");
    for [threads, own, together] in ranks {
        assert_eq!(together, sharing, "{ended:#?}");
        assert_eq!(threads, (own / sharing).max(1), "{ended:#?}");
    }
}

#[test]
fn ranks_bound_by_taskset_use_all_their_cores() {
    if installed("taskset").is_none() {
        return eprintln!("skipped: taskset is not installed");
    }
    if !two_cores() {
        return;
    }
    // Each on a core of its own, and both on one core: neither is the launcher's number of cores.
    for (core, sharing) in [("$LOCAL_RANK", 1), ("0", 2)] {
        let script = format!("unset RAYON_NUM_THREADS; exec taskset -c {core} \"$EXAMPLE\" \"$@\"");
        let launcher = built(&format!("burn-dist-run{}", std::env::consts::EXE_SUFFIX));
        let mut command = command(launcher, RECORD);
        command.env("EXAMPLE", example());
        command.args(["--standalone", "--nproc-per-node", "2"]);
        command.args(["sh", "-c", &script, "sh"]);
        expect_shared(command, sharing);
    }
}
