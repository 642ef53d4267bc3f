//! Ranks on NVIDIA GPUs, whose memory NCCL moves. Feature `nccl`.
//!
//! [`Nccl`] wraps another engine: threads, sockets and shared memory, or MPI. That one still moves
//! what lies in the host's memory, and it does everything but moving the bytes for what lies on a GPU:
//! NCCL compares no calls, has no deadlines, and cannot tell which rank has failed. So before each
//! collective between GPUs the ranks compare their calls through the host's engine, and while one is
//! pending the host's engine is asked whether the world has failed.
//!
//! - A program that differs between ranks is a [`Mismatch`](crate::Error::Mismatch), as on the host.
//! - A rank that does not call is named by the host's engine, after its deadline.
//! - A rank that fails, or whose GPU does, aborts the communicators of all: no rank hangs in NCCL.
//! - One stream per rank, one communicator per group, made at the group's first collective on a device
//!   and kept until the rank leaves.
//!
//! Collectives of several groups must be issued in one order on all ranks, as a
//! [`Queue`](crate::comm::Queue) does: a GPU does them one after the other.
//!
//! # Numerics
//! NCCL adds in the order of its rings and trees, in the type of the elements: results are not bit
//! for bit those of the host's engines, and those of f16 and bf16 are rounded more often. Its maximum
//! may drop a NaN.
//!
//! # Libraries
//! No library is linked: CUDA's driver (`libcuda.so.1`) and NCCL (`libnccl.so`, `libnccl.so.2`, or the file
//! named in `BURN_DIST_NCCL_LIB`) are opened at run time. [`Nccl::available`] returns what is installed.

mod errors;
mod gpu;
mod group;
mod library;
mod nccl_comm;
mod options;
mod preflight;
mod submitted;
mod watchdog;

pub use options::Options;
pub use preflight::{Info, Version};

use super::{
    Arrival, Call, DeviceBuffer, DeviceEngine, Engine, Order, Parts, Reduce, Span, SpanMut,
};
use crate::error::{Error, Result};
use group::{NcclGroup, RankGroups};
use nccl_comm::Transfer;
use std::sync::Arc;
use submitted::Owner;

/// One rank's engine: another one for the host's memory, and NCCL for a GPU's.
#[derive(Debug)]
pub struct Nccl {
    group: Arc<NcclGroup>,
    rank: Arc<FinishOnDrop>,
}

/// Ends the communicators of a rank when the last of its engines is dropped.
///
/// Ending a communicator is a collective: if each engine did so when it is dropped, ranks that drop
/// theirs in different orders would wait for each other.
#[derive(Debug)]
struct FinishOnDrop(Arc<RankGroups>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Whether NCCL is used in a world; the same on all ranks.
#[derive(Debug)]
pub enum Choice {
    /// NCCL is used.
    Nccl(Nccl),
    /// NCCL cannot be used by these ranks, so device memory has to be copied through the host.
    Host {
        /// The engine that was given.
        host: Arc<dyn Engine>,
        /// Which rank lacks what, or which of them share a GPU.
        reason: Error,
    },
}

impl Nccl {
    /// What this machine has, without ranks; returns an error if anything is missing.
    ///
    /// # Errors
    /// [`Error::Config`] names what is missing or too old, and what to do.
    ///
    /// ```
    /// use burn_dist::comm::nccl::Nccl;
    ///
    /// match Nccl::available() {
    ///     Ok(info) => println!("NCCL {} and {} GPUs", info.version, info.gpus),
    ///     Err(error) => println!("no NCCL here: {error}"),
    /// }
    /// ```
    pub fn available() -> Result<Info> {
        preflight::available().map(|(info, _)| info)
    }

    /// Adds NCCL to `host` on every rank; call it on all, each with the number of its own GPU among
    /// those that its process sees.
    ///
    /// Costs one gather of a kilobyte per rank; ranks are connected at a group's first collective.
    ///
    /// # Errors
    /// The same on every rank: [`Error::PeerFailed`] names a rank without NCCL or without that GPU, and
    /// what it lacks; [`Error::Config`] two ranks that share a GPU where NCCL cannot;
    /// [`Error::Mismatch`] names ranks with unequal versions; otherwise what a
    /// collective of `host` may return.
    ///
    /// # Source
    /// NCCL: `ncclCommInitRankConfig`.
    pub fn new(host: Arc<dyn Engine>, ordinal: usize, options: Options) -> Result<Self> {
        match Self::if_everywhere(host, ordinal, options)? {
            Choice::Nccl(engine) => Ok(engine),
            Choice::Host { reason, .. } => Err(reason),
        }
    }

    /// As [`new`](Self::new), for worlds that also work without NCCL.
    ///
    /// # Errors
    /// As [`new`](Self::new), but a rank without NCCL is no error. Unequal versions are an error, which copies
    /// through the host would hide.
    pub fn if_everywhere(
        host: Arc<dyn Engine>,
        ordinal: usize,
        options: Options,
    ) -> Result<Choice> {
        Ok(match preflight::on_all_ranks(&*host, ordinal, options)? {
            Ok((gpu, options)) => {
                let rank = Arc::new(FinishOnDrop(RankGroups::new(gpu)));
                let group = rank.0.add(host, options);
                Choice::Nccl(Self { group, rank })
            }
            Err(reason) => Choice::Host { host, reason },
        })
    }

    fn host(&self) -> &dyn Engine {
        &*self.group.host
    }
}

impl Engine for Nccl {
    fn rank(&self) -> usize {
        self.host().rank()
    }

    fn members(&self) -> &[usize] {
        self.host().members()
    }

    fn all_gather(&self, call: &Call, buffer: SpanMut<'_>) -> Result<()> {
        self.host().all_gather(call, buffer)
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: Span<'_>,
        recv: SpanMut<'_>,
    ) -> Result<()> {
        self.host().reduce_scatter(call, op, send, recv)
    }

    fn all_reduce(&self, call: &Call, op: Reduce, buffer: SpanMut<'_>) -> Result<()> {
        self.host().all_reduce(call, op, buffer)
    }

    fn broadcast(&self, call: &Call, root: usize, buffer: SpanMut<'_>) -> Result<()> {
        self.host().broadcast(call, root, buffer)
    }

    fn all_to_all(
        &self,
        call: &Call,
        counts: &[usize],
        send: Span<'_>,
        recv: SpanMut<'_>,
    ) -> Result<()> {
        self.host().all_to_all(call, counts, send, recv)
    }

    fn barrier(&self, call: &Call) -> Result<()> {
        self.host().barrier(call)
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let host = self.host().split(call, color, key)?;
        let rank = self.rank.clone();
        let group = rank.0.add(host, self.group.options);
        Ok(Arc::new(Self { group, rank }))
    }

    fn device(&self) -> Option<&dyn DeviceEngine> {
        Some(self)
    }

    fn fault(&self) -> Option<Error> {
        self.group.fault().or_else(|| self.host().fault())
    }

    fn abort(&self, error: Error) {
        // Threads that wait for a GPU ask the host's engine, on this rank and the others.
        self.host().abort(error);
    }

    fn leave(&self) {
        // Before the host's engine leaves: `finish` asks it whether the world has failed.
        self.rank.0.finish();
        self.host().leave();
    }
}

impl DeviceEngine for Nccl {
    fn order(&self) -> Order {
        self.group.options.order
    }

    fn all_gather(&self, call: &Call, buffer: &DeviceBuffer) -> Result<Arrival> {
        let rank_and_size = (self.rank(), self.members().len());
        let transfer = Transfer::AllGather(buffer, rank_and_size);
        self.group.run(call, transfer)
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: &DeviceBuffer,
        recv: &DeviceBuffer,
    ) -> Result<Arrival> {
        self.group
            .run(call, Transfer::ReduceScatter(op, send, recv))
    }

    fn all_reduce(&self, call: &Call, op: Reduce, buffer: &DeviceBuffer) -> Result<Arrival> {
        self.group.run(call, Transfer::AllReduce(op, buffer))
    }

    fn all_to_all(
        &self,
        call: &Call,
        counts: &[usize],
        send: &DeviceBuffer,
        recv: &DeviceBuffer,
    ) -> Result<Arrival> {
        let rank_and_size = (self.rank(), self.members().len());
        let parts = Parts::new(counts, rank_and_size.1);
        let transfer = Transfer::AllToAll(parts, send, recv, rank_and_size);
        self.group.run(call, transfer)
    }

    fn broadcast(&self, call: &Call, root: usize, buffer: &DeviceBuffer) -> Result<Arrival> {
        self.group.run(call, Transfer::Broadcast(root, buffer))
    }
}
