//! The rendezvous of a world of processes: how ranks join, share small values, and learn which failed first.
//!
//! Rank 0 runs a [`Server`], as torchrun's agent runs a TCP store. Every rank, rank 0 included, takes a
//! [`Seat`] with two connections to it. One carries requests to a small key-value store: addresses, names
//! and counts, never tensors. The other carries heartbeats both ways and reports of failures. The server
//! decides which failure was the first (`state.rs`, without sockets), and tells every rank that one. A
//! survivor therefore names the rank that failed, and never one that only ended because of it.
//!
//! Both sides of a connection prove with a shared secret that they belong to this world. Any other
//! connection is dropped. What that protects from, and what it does not, is in `SECURITY.md`.

mod connection;
mod join;
mod message;
mod registry;
mod seat;
mod secret;
mod server;
mod state;
mod stream;
mod terms;
mod untrusted;
mod watch;

pub(crate) use message::HELLO_TIMEOUT;
pub use seat::Seat;
pub use secret::Secret;
pub(crate) use secret::nonce;
pub use server::Server;
#[cfg(fuzzing)]
pub(crate) use stream::fuzz;
pub(crate) use stream::{Inbox, Outbox, Silence, split};
pub use terms::Terms;
pub(crate) use untrusted::{TurnedAway, line, word};
