//! Every fault, with real processes: what is killed, stopped, or goes its own way ends all ranks,
//! soon, with one cause, and leaves nothing behind.
//!
//! This test starts itself again as the ranks; [`program`] is what they do. A rank says where it is
//! by making a file, and stays there, so that a fault strikes where it is meant to.

mod evaluation;
mod launcher;
mod phases;
mod process;
mod program;
mod programs;
mod restarts;
mod start;

/// Not a test: what the processes run that the tests start.
#[test]
#[ignore = "a rank of the other tests"]
fn rank_program() {
    program::main();
}
