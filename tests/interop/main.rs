//! The example under other launchers, as real processes: two hosts, torchrun, the `mpirun`s, SLURM, and
//! what clusters leave in the environment.
//!
//! Every test compares what the ranks print and save with ranks that are threads of one process.

mod clusters;
mod cores;
mod elastic;
mod hosts;
mod links;
mod network;
mod process;
mod slurm;
mod tools;
mod training;
mod transports;
