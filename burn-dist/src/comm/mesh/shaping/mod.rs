//! Connections between nodes that are as slow as a network of a given bandwidth and latency.
//!
//! A thread of the process stands between the engine and the sockets to other nodes, as the network would: what the
//! engine sends waits for its turn in the node's token bucket, then for the latency, and goes on while the rank
//! computes. The engine has an ordinary socket to that thread, so its own path is the same with and without a link.

mod bucket;
mod connection;
mod delay_line;
mod link_shape;
mod nodes;
mod pace;
mod shaper;

pub use link_shape::LinkShape;
pub(super) use shaper::Shaper;
