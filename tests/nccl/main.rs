//! The NCCL engine without a GPU, on a mock of CUDA's driver and NCCL, with injected faults.
//!
//! Libraries are found when a process starts, so this program builds the mock (`tests/mock_cuda`), and
//! starts itself again with it, once per case. It has no harness of its own, because a case is a
//! process.

mod endings;
mod faults;
mod machine;
mod memory;
#[path = "../mesh/mod.rs"]
mod mesh;
mod mock;
mod moves;
#[cfg(feature = "cuda")]
#[path = "../oracle/mod.rs"]
mod oracle;
mod order;
mod process;
mod processes;
mod ranks;
#[cfg(feature = "cuda")]
mod real;
#[cfg(feature = "cuda")]
#[path = "../gpu/tower.rs"]
mod tower;

use process::Install::{self, Mock, Named, NoDriver, NoNccl, Real, Runtime, Sharing, Without};
use std::process::ExitCode;

/// A case: its name, what it does, and what it finds installed.
type Case = (&'static str, fn(), Install);

const CASES: [Case; 38] = [
    ("no driver", machine::no_driver, NoDriver),
    ("no nccl", machine::no_nccl, NoNccl),
    ("only libnccl.so.2", machine::is_there, Runtime),
    ("a named file", machine::is_there, Named),
    (
        "no ncclCommAbort",
        machine::lacks_abort,
        Without("ncclCommAbort"),
    ),
    (
        "no cuCtxRecordEvent",
        machine::orders_on_the_host,
        Without("cuCtxRecordEvent"),
    ),
    ("no device", machine::no_device, Mock),
    ("one rank lacks it", machine::one_rank_lacks_it, Mock),
    ("one GPU for two", machine::one_gpu_for_two, Mock),
    ("one GPU shared", machine::one_gpu_shared, Sharing),
    ("unequal versions", machine::unequal_versions, Mock),
    ("the real library", machine::the_real_library, Real),
    ("conformance", moves::conformance_suite, Mock),
    ("every type", moves::every_operation_and_type, Mock),
    ("groups", moves::groups, Mock),
    ("slow starts", moves::slow_starts, Mock),
    ("refused", moves::refused, Mock),
    ("order", order::the_device_orders, Mock),
    ("reuse", order::memory_stays_until_the_device_is_done, Mock),
    ("mismatch", faults::mismatch, Mock),
    ("host is not device", faults::host_is_not_device, Mock),
    ("absent", faults::absent, Mock),
    ("stuck", faults::stuck, Mock),
    ("stuck behind another", faults::stuck_behind_another, Mock),
    ("aborted", faults::aborted_is_not_done, Mock),
    ("behind the wait", faults::aborted_behind_the_wait, Mock),
    ("asynchronous error", faults::asynchronous_error, Mock),
    ("noticed elsewhere", faults::noticed_elsewhere, Mock),
    ("abort", faults::abort, Mock),
    ("panic", faults::a_rank_fails_elsewhere, Mock),
    ("refused by nccl", faults::refused_by_nccl, Mock),
    ("driver fails", faults::driver_fails, Mock),
    ("connecting", faults::connecting, Mock),
    ("first cause", faults::first_cause_wins, Mock),
    ("over a mesh", processes::over_a_mesh, Mock),
    ("killed", processes::a_killed_process_is_missed, Mock),
    ("orderly end", endings::orderly, Mock),
    ("abrupt end", endings::abrupt, Mock),
];

fn main() -> ExitCode {
    #[cfg(feature = "cuda")]
    if let Some((ranks, one_gpu)) = real::asked() {
        return real::run(ranks, one_gpu);
    }
    if let Some(name) = process::case() {
        if processes::is_rank() {
            return ExitCode::SUCCESS;
        }
        let case = CASES.iter().find(|case| case.0 == name);
        let Some((_, run, _)) = case else {
            return ExitCode::FAILURE;
        };
        run();
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| {
        let mut words = wanted.iter().filter(|word| !word.starts_with('-'));
        words.clone().next().is_none() || words.any(|word| name.contains(word.as_str()))
    };
    let folder = tempfile::tempdir().unwrap();
    let library = process::build();
    let mut failed = 0;
    for (name, _, install) in CASES.iter().filter(|case| wanted(case.0)) {
        match process::run(name, *install, &library, folder.path()) {
            Ok(said) => println!("test {name} ... {said}"),
            Err(text) => {
                println!("test {name} ... FAILED\n{text}");
                failed += 1;
            }
        }
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
