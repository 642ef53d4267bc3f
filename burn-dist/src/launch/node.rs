//! What a launcher starts on this host.

use std::path::PathBuf;

/// One host's part of a world, before its ranks are started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number of hosts.
    pub nodes: usize,
    /// This host's number, from 0.
    pub node_rank: usize,
    /// Ranks to start here, and on every other host.
    pub ranks: usize,
    /// The host of rank 0, as the others reach it.
    pub master_addr: String,
    /// The port on which rank 0 listens; 0 on a single host for any free one.
    pub master_port: u16,
    /// How often the group is started again after a failure.
    pub max_restarts: usize,
    /// Where each rank's output and records go, besides the terminal.
    pub log_dir: Option<PathBuf>,
}
