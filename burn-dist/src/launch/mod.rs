//! How ranks come to be.

mod threads;

pub use threads::Threads;
