//! How ranks come to be: as threads of this process, or as processes that a launcher looks after.

mod diagnosis;
mod entry;
mod environment;
mod error_file;
mod flags;
mod host;
mod hostlist;
mod identity;
#[cfg(feature = "mpi")]
mod mpi;
mod node;
mod process;
mod rank;
mod ranks;
mod role;
mod settings;
mod supervise;
mod threads;
mod variable;

pub use crate::comm::mesh::Transport;
pub use diagnosis::diagnose;
pub use entry::{Launch, launch};
pub use environment::{Detected, Launcher, Origin, Origins, detect, process_variable};
pub use error_file::ErrorFile;
pub use flags::{Flags, NProc};
pub use hostlist::Hostlist;
#[cfg(fuzzing)]
pub(crate) use hostlist::tasks_on;
pub use identity::Identity;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use node::Node;
pub use role::Role;
pub use supervise::{Program, exit_code, supervise};
pub use threads::Threads;
