//! Failures between ranks: deadlines, broken connections, and connections from outside.
//!
//! Ranks are threads here, most of them over real sockets or shared memory. Many tests wait for a
//! deadline, so programs that keep every core busy for seconds lie apart (`tests/collectives.rs`).

#[path = "../mesh/mod.rs"]
mod mesh;

mod comm_failures;
mod links;
mod mesh_failures;
mod rendezvous;
mod security;
