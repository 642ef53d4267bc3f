//! This host's part of one start of the world.

use crate::launch::Node;
use std::ops::Range;
use std::time::Duration;

/// The numbers of one start, as this host's ranks are told them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// This host's first rank.
    pub(super) first: usize,
    /// Ranks of this host.
    pub(super) ranks: usize,
    /// Ranks of all hosts.
    pub(super) world: usize,
    /// This host's number among those that take part.
    pub(super) group: usize,
    pub(super) groups: usize,
    /// How often the world was started again.
    pub(super) attempt: usize,
    pub(super) max_restarts: usize,
    /// Ranks of the first start.
    pub(super) initial: usize,
    pub(super) changing: Option<Changing>,
}

/// What ranks are told beside it where the world may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changing {
    /// How long a restarted rank may take to join its world.
    pub(super) join: Option<Duration>,
    /// The GPUs of the ranks that are left, where others are not used any more.
    pub(super) gpus: Option<String>,
}

impl Part {
    /// The part of a host in a world that does not change.
    pub(super) fn of(node: &Node, attempt: usize) -> Self {
        Self {
            first: node.node_rank * node.ranks,
            ranks: node.ranks,
            world: node.nodes * node.ranks,
            group: node.node_rank,
            groups: node.nodes,
            attempt,
            max_restarts: node.max_restarts,
            initial: node.nodes * node.ranks,
            changing: None,
        }
    }

    /// The ranks of this host.
    pub(super) fn here(&self) -> Range<usize> {
        self.first..self.first + self.ranks
    }
}
