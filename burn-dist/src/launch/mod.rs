//! How ranks come to be.

mod identity;
mod node;
mod rank;
mod threads;

pub use identity::Identity;
pub use node::Node;
pub use threads::Threads;
