//! How ranks are started: as threads of this process, or as processes that a launcher supervises.
//!
//! A program calls [`launch()`] and runs everywhere:
//!
//! ```text
//! program                                                       threads of one process
//! program --nproc-per-node 4                                    processes, started by itself
//! burn-dist-run --nproc-per-node 4 program                      processes, started by our launcher
//! torchrun --no-python --nproc_per_node=4 program               processes, started by another one
//! mpirun -n 4 program; srun -n 4 program; ...
//! ```
//!
//! On several hosts, the same command on each, as with torchrun:
//! `--nnodes=2 --nproc_per_node=2 --node_rank=<0,1> --master_addr=<ip> --master_port=<port>`.
//!
//! With a range of hosts or ranks (`--nnodes=1:4`, `--nproc-per-node=2:4`) a restart goes on with those that are
//! left, or with more again: see [`Elastic`].
//!
//! `--link 1gbit,5ms` makes the connections between nodes as slow as such a network, also where all nodes are on one
//! host; a node is what has a `GROUP_RANK`, `NODE_RANK` or `SLURM_NODEID` of its own, else a host. See [`LinkShape`].
//!
//! Rank 0 serves a [rendezvous](crate::rendezvous) at the master's address. All ranks join it, and learn
//! there when another one fails. Then they connect [with each other](crate::comm::mesh). What ends one rank
//! ends all, with one cause.
//!
//! # Variables
//!
//! Its number, and the number of ranks, come from its launcher's variables ([`detect`]). These are
//! ours:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `BURN_DIST_RANK`, `_WORLD_SIZE`, `_LOCAL_RANK`, `_LOCAL_WORLD_SIZE` | which rank this is | its launcher's |
//! | `BURN_DIST_MASTER_ADDR`, `_MASTER_PORT` | where rank 0 listens | its launcher's |
//! | `BURN_DIST_SECRET` | what only this world's processes know | random under our launcher on one host; else none (a job's number counts as none) |
//! | `BURN_DIST_HEARTBEAT` | seconds without a sign of life until a rank is lost | 10 |
//! | `BURN_DIST_TIMEOUT` | seconds that a collective waits for a rank that is alive | 300 |
//! | `BURN_DIST_JOIN_TIMEOUT` | seconds to wait for all ranks to come | 300 |
//! | `BURN_DIST_INITIAL_WORLD_SIZE` | ranks of the first start ([`initial_size`](crate::World::initial_size)) | the world size |
//! | `BURN_DIST_REJOIN` | with a range `MIN:MAX`, seconds that what is lost may take to come back (`--rejoin`) | 60 |
//! | `BURN_DIST_READY_FILE` | a file that a rank makes once it has joined | the launcher's, with a range |
//! | `BURN_DIST_TRANSPORT` | `auto`, `tcp`, `shm` or `ring` | `auto` |
//! | `BURN_DIST_LINK` | bandwidth and latency between nodes, such as `1gbit,5ms` (`--link`) | those of the network |
//! | `BURN_DIST_GPU_TRANSPORT` | between NVIDIA GPUs `nccl`, `host`, or `auto`: NCCL where all ranks have it | `auto` |
//! | `BURN_DIST_GPU_ORDER` | who waits for NCCL: `host` or `device` | `host` |
//! | `BURN_DIST_NCCL_LIB` | the file to open as NCCL | found by the system |
//! | `BURN_DIST_HOST_ID` | ranks with equal ones may share memory | the kernel's boot number |
//! | `BURN_DIST_FLIGHT_DIR` | where a failed rank writes its last collectives | the launcher's |
//! | `BURN_DIST_GRACE`, `BURN_DIST_FAIL_GRACE` | seconds until the launcher kills, told to end or after a failure | 30, 5 |
//! | `RAYON_NUM_THREADS` | compute threads of a rank | the cores that it may run on, each divided among the ranks that may run there |
//!
//! The secret keeps other programs and other jobs out of the rendezvous. With several hosts and without one,
//! rank 0 warns. Nothing is encrypted: run on a network you trust, as with NCCL, gloo and MPI.
//! `SECURITY.md` says who may do what.

mod detection;
mod device;
mod diagnosis;
mod entry;
mod error_file;
mod flags;
mod gpus;
mod host;
mod hostlist;
mod identity;
#[cfg(feature = "mpi")]
mod mpi;
mod node;
mod node_name;
mod process;
mod rank_set;
mod role;
mod secrecy;
mod settings;
mod start;
mod supervise;
mod threads;
mod variable;

pub use crate::comm::mesh::{LinkShape, Transport};
pub use detection::{Detected, Launcher, Origin, Origins, detect, process_variable};
pub use device::{DeviceKind, Devices};
pub use diagnosis::diagnose;
pub use entry::{Launch, launch};
pub use error_file::ErrorFile;
pub use flags::{Flags, NNodes, NProc};
pub use hostlist::Hostlist;
#[cfg(fuzzing)]
pub(crate) use hostlist::tasks_on;
pub use identity::Identity;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use node::{Elastic, Node};
pub use role::Role;
pub use supervise::{Program, exit_code, supervise};
pub use threads::Threads;
