//! A group of MPI ranks: who its members are, and the endpoint through which they exchange messages.

use super::endpoint::Endpoint;
use crate::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// One process's engine; a clone is the same rank.
#[derive(Debug, Clone)]
pub struct Mpi {
    pub(super) rank: usize,
    pub(super) members: Arc<[usize]>,
    pub(super) group: Arc<MpiGroup>,
    /// The world that this group was split from: a failure breaks all of its groups.
    pub(super) world: u64,
    pub(super) deadline: Duration,
}

/// The messages of one group.
#[derive(Debug)]
pub(super) struct MpiGroup {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) id: u64,
}

impl Drop for MpiGroup {
    fn drop(&mut self) {
        // A failed collective leaves unread messages.
        let _ = self.endpoint.progress(|view| view.forget(self.id));
    }
}

impl Mpi {
    /// How many ranks, this one included, may compute on the cores of this one.
    pub fn sharing(&self) -> usize {
        self.endpoint().sharing
    }

    /// This rank's number among those of its host.
    pub fn local_rank(&self) -> usize {
        self.endpoint().local_rank
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.group.endpoint
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    /// Records the failure of this rank's world, and returns the error that it failed with first.
    pub(super) fn fail(&self, error: Error) -> Error {
        self.endpoint().fail(self.world, error)
    }
}
