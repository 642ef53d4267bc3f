//! The flags that say which processes to start, named as torchrun's.

mod arguments;
mod hardware;
mod hosts;
mod link;
mod local_world_size;
mod master;
mod nnodes;
mod nproc;
mod rejoin;
mod resolve;

pub use arguments::Flags;
pub use nnodes::NNodes;
pub use nproc::NProc;
