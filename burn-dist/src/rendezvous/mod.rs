//! Where the processes of a world meet, and how they learn of each other's end.
//!
//! Rank 0 serves; every rank, rank 0 included, takes a [`Seat`] with two connections to it. On one
//! a small key-value store answers: addresses, names and counts go through it, never tensors. On
//! the other both sides show that they are alive, and the server is the judge of failures: the
//! first one that is reported counts, and every rank is told that one. A survivor therefore
//! names the rank that failed, and never one that only ended because of it.
//!
//! Connections prove with a shared secret that they belong to this world, both ways. Whatever else
//! connects is dropped. What that protects from, and what it does not, is in `SECURITY.md`.

mod entry;
mod guests;
mod message;
mod seat;
mod secret;
mod server;
mod stream;
mod terms;
mod watch;
mod words;

pub use seat::Seat;
pub use secret::Secret;
pub use server::Server;
#[cfg(fuzzing)]
pub(crate) use stream::fuzz;
pub use terms::Terms;
pub(crate) use words::TurnedAway;
