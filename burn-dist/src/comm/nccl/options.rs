//! The options of collectives between GPUs.

use crate::comm::Order;
use std::time::Duration;

/// How collectives between GPUs are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long a collective may take once every rank has called it, and how long connecting a group may.
    pub deadline: Duration,
    /// Whether the host or the device waits. Where a rank's driver is older than CUDA 12.5, or ranks of one
    /// process share a GPU, the host waits on all ranks.
    pub order: Order,
}

impl Default for Options {
    /// Five minutes, and the host waits.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(300),
            order: Order::Host,
        }
    }
}
