//! What a user says about processes to start, in torchrun's words.

mod arguments;
mod hardware;
mod hosts;
mod local_world_size;
mod master;
mod nnodes;
mod nproc;
mod resolve;

pub use arguments::Flags;
pub use nproc::NProc;
