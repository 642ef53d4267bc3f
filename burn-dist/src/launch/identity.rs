//! Which rank this process is.

/// One rank of a world of processes, and the address of rank 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// This rank's number, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// This rank's number among those of its host.
    pub local_rank: usize,
    /// Number of ranks on this host.
    pub local_world_size: usize,
    /// The host of rank 0, as the others reach it.
    pub master_addr: String,
    /// The port on which rank 0 listens.
    pub master_port: u16,
}
