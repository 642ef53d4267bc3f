//! A communicator's collectives on device memory, with the same checks, ledger and recorder as on
//! the host.

use super::device::{Arrival, DeviceBuffer, DeviceEngine};
use super::{Communicator, Label, Reduce};
use crate::error::Result;

/// Collectives on one device's memory.
///
/// Groups of one rank call the engine too; the caller decides whether to.
#[derive(Debug, Clone, Copy)]
pub struct OnDevice<'a> {
    comm: &'a Communicator,
    engine: &'a dyn DeviceEngine,
}

impl Communicator {
    /// Collectives between the memories of the ranks' devices, if the engine has them.
    ///
    /// If it has none, the caller copies device memory through the host.
    pub fn on_device(&self) -> Option<OnDevice<'_>> {
        let engine = self.engine.device()?;
        Some(OnDevice { comm: self, engine })
    }
}

impl OnDevice<'_> {
    /// Whether the host or the device waits for the elements.
    pub fn order(&self) -> super::Order {
        self.engine.order()
    }

    /// Concatenates every rank's shard, which each has written to `buffer` already.
    ///
    /// # Shapes
    /// `buffer`: `[size * n]`, of which this rank has written the part that starts at `rank * n`.
    ///
    /// # Errors
    /// As [`Communicator::all_gather`]; what fails later comes with the [`Arrival`].
    ///
    /// # Source
    /// NCCL: `ncclAllGather`.
    pub fn all_gather_in_place(&self, label: &Label, buffer: &DeviceBuffer) -> Result<Arrival> {
        let (call, sent) = self.comm.caller().all_gather(label, buffer)?;
        self.comm
            .run(call, sent, |call| self.engine.all_gather(call, buffer))
    }

    /// Reduces over ranks and leaves each rank the chunk of the result with its own number.
    ///
    /// # Shapes
    /// `send`: `[size * n]`; `recv`: `[n]`.
    ///
    /// # Numerics
    /// The engine chooses the order of additions and the type of the sum, which differ from the
    /// host's.
    ///
    /// # Errors
    /// As [`Communicator::reduce_scatter`].
    ///
    /// # Source
    /// NCCL: `ncclReduceScatter`.
    pub fn reduce_scatter(
        &self,
        label: &Label,
        op: Reduce,
        send: &DeviceBuffer,
        recv: &DeviceBuffer,
    ) -> Result<Arrival> {
        let (call, sent) = self.comm.caller().reduce_scatter(label, op, send, recv)?;
        self.comm.run(call, sent, |call| {
            self.engine.reduce_scatter(call, op, send, recv)
        })
    }

    /// Replaces `buffer` by its reduction over all ranks.
    ///
    /// # Numerics and errors
    /// As [`reduce_scatter`](Self::reduce_scatter); every rank receives the same bits.
    ///
    /// # Source
    /// NCCL: `ncclAllReduce`.
    pub fn all_reduce(&self, label: &Label, op: Reduce, buffer: &DeviceBuffer) -> Result<Arrival> {
        let (call, sent) = self.comm.caller().all_reduce(label, op, buffer)?;
        self.comm
            .run(call, sent, |call| self.engine.all_reduce(call, op, buffer))
    }

    /// Gives each rank its part of what every rank sends.
    ///
    /// # Shapes and errors
    /// As [`Communicator::all_to_all`].
    ///
    /// # Source
    /// NCCL: `ncclSend` and `ncclRecv` between `ncclGroupStart` and `ncclGroupEnd`.
    pub fn all_to_all(
        &self,
        label: &Label,
        counts: &[usize],
        send: &DeviceBuffer,
        recv: &DeviceBuffer,
    ) -> Result<Arrival> {
        let (call, sent) = self.comm.caller().all_to_all(label, counts, send, recv)?;
        self.comm.run(call, sent, |call| {
            self.engine.all_to_all(call, counts, send, recv)
        })
    }

    /// Replaces `buffer` by that of rank `root`.
    ///
    /// # Errors
    /// As [`Communicator::broadcast`].
    ///
    /// # Source
    /// NCCL: `ncclBroadcast`.
    pub fn broadcast(&self, label: &Label, root: usize, buffer: &DeviceBuffer) -> Result<Arrival> {
        let (call, sent) = self.comm.caller().broadcast(label, root, buffer)?;
        self.comm
            .run(call, sent, |call| self.engine.broadcast(call, root, buffer))
    }
}
