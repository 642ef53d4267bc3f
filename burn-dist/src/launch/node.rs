//! What a launcher starts on this host.

use std::path::PathBuf;
use std::time::Duration;

/// One host's part of a world, before its ranks are started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number of hosts; with [`elastic`](Self::elastic) the largest.
    pub nodes: usize,
    /// This host's number, from 0.
    pub node_rank: usize,
    /// Ranks to start here, and on every other host; with [`elastic`](Self::elastic) the largest number.
    pub ranks: usize,
    /// The host of rank 0, as the others reach it.
    pub master_addr: String,
    /// The port on which rank 0 listens; 0 on a single host for any free one.
    pub master_port: u16,
    /// How often the group is started again after a failure.
    pub max_restarts: usize,
    /// Where each rank's output and records go, besides the terminal.
    pub log_dir: Option<PathBuf>,
    /// If and how a restart goes on with fewer ranks, or with more again.
    pub elastic: Option<Elastic>,
}

/// How a restart goes on without the ranks and hosts that do not come back.
///
/// A host is lost when its launcher gives no sign of life for a heartbeat, or has no connection. A rank is lost
/// when its process, started again, ends before it has joined the world, or has not joined within `rejoin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elastic {
    /// With fewer hosts the world ends.
    pub least_nodes: usize,
    /// A host with fewer ranks takes no part.
    pub least_ranks: usize,
    /// How long what is lost may take to come back.
    pub rejoin: Duration,
}
