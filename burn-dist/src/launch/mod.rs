//! How ranks come to be.

mod identity;
#[cfg(feature = "mpi")]
mod mpi;
mod node;
mod rank;
mod threads;

pub use identity::Identity;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use node::Node;
pub use threads::Threads;
