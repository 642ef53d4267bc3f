//! Faults of real processes: when one is killed, stopped, or runs another program, all ranks end soon with the
//! same cause, and no process or file is left.
//!
//! This test starts itself again as the ranks, which run [`program`]. A rank announces the phase that it has
//! reached by creating a file, and waits there, so that a fault is injected in the intended phase.

mod elastic;
mod epoch;
mod evaluation;
mod launcher;
mod phases;
mod process;
mod program;
mod programs;
mod reading;
mod restarts;
mod start;

/// Not a test: what the processes run that the tests start.
#[test]
#[ignore = "a rank of the other tests"]
fn rank_program() {
    program::main();
}
