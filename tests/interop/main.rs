//! The example under other launchers, as real processes: two hosts, torchrun, the `mpirun`s, SLURM, and
//! what clusters leave in the environment.
//!
//! However the ranks came to be, they do the same work: every test compares what was printed, and
//! what was saved, with ranks that are threads of one process.

mod clusters;
mod cores;
mod hosts;
mod network;
mod process;
mod slurm;
mod tools;
mod training;
mod transports;
