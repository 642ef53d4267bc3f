//! The example under other launchers, as real processes: two hosts, torchrun, mpirun, and what
//! clusters leave in the environment.
//!
//! However the ranks came to be, they do the same work: every test compares what was printed, and
//! what was saved, with ranks that are threads of one process.

mod clusters;
mod hosts;
mod network;
mod process;
mod tools;
mod training;
mod transports;
