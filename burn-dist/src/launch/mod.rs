//! How ranks come to be: as threads of this process, or as processes that a launcher looks after.

mod diagnosis;
mod error_file;
mod host;
mod identity;
mod node;
mod ranks;
mod supervise;
mod threads;

pub use diagnosis::diagnose;
pub use error_file::ErrorFile;
pub use identity::Identity;
pub use node::Node;
pub use supervise::{Program, exit_code, supervise};
pub use threads::Threads;
