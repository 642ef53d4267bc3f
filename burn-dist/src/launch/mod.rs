//! How ranks come to be.

mod environment;
mod flags;
mod hostlist;
mod identity;
mod node;
mod rank;
mod role;
mod threads;
mod variable;

pub use environment::{Detected, Launcher, Origin, Origins, detect, process_variable};
pub use flags::{Flags, NProc, Transport};
pub use hostlist::Hostlist;
pub use identity::Identity;
pub use node::Node;
pub use role::Role;
pub use threads::Threads;
