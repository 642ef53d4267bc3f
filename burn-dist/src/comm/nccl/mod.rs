//! Ranks on NVIDIA GPUs, whose memory NCCL moves. Feature `nccl`.
//!
//! [`Nccl`] wraps another engine: threads, sockets and shared memory, or MPI. That one still moves
//! what lies in the host's memory, and it carries everything but the bytes for what lies on a GPU:
//! NCCL compares nothing, never gives up by itself, and cannot say which rank is gone. So before
//! each collective between GPUs the ranks meet on the host and compare what they are about to do, and
//! while one is under way the host's engine is asked whether the world still stands.
//!
//! - A program that differs between ranks is a [`Mismatch`](crate::Error::Mismatch), as on the host.
//! - A rank that does not come is named by the host's engine, with its deadline.
//! - A rank that fails, or whose GPU does, aborts the communicators of all: nobody hangs in NCCL.
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
//! Nothing is linked: CUDA's driver (`libcuda.so.1`) and NCCL (`libnccl.so`, `libnccl.so.2`, or the file
//! named in `BURN_DIST_NCCL_LIB`) are opened at run time. [`Nccl::available`] says what is there.

mod clique;
mod flight;
mod gpu;
mod group;
mod library;
mod preflight;
mod text;
mod watch;

pub use preflight::{Info, Version};

use super::{Arrival, Call, DeviceBuffer, DeviceEngine, Engine, Order, Reduce, Span, SpanMut};
use crate::error::{Error, Result};
use clique::Transfer;
use gpu::Gpu;
use group::Group;
use std::sync::Arc;
use std::time::Duration;

/// How collectives between GPUs are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long one may take once every rank has called it, and connecting a group.
    pub deadline: Duration,
    /// Who waits; where a rank's driver is older than CUDA 12.5, or ranks of one process share a GPU,
    /// the host does on all.
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

/// One rank's engine: another one for the host's memory, and NCCL for a GPU's.
#[derive(Debug)]
pub struct Nccl {
    group: Arc<Group>,
    session: Arc<Session>,
}

/// The engines of one rank, whose groups keep their communicators until the last of them is gone.
///
/// To end a communicator is a collective of its own: if each engine did so when it is dropped, ranks
/// that drop theirs at different times would wait for each other.
#[derive(Debug)]
struct Session(Arc<Gpu>);

impl Session {
    /// Ends all communicators, in the order in which their groups were made.
    fn finish(&self) {
        // One that fails in this ends those that are still to come.
        let groups = self.0.groups().clone();
        groups.iter().for_each(|group| group.finish());
        let finished = |group: &Arc<Group>| groups.iter().any(|other| Arc::ptr_eq(group, other));
        self.0.groups().retain(|group| !finished(group));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What moves between GPUs in a world, the same on all ranks.
#[derive(Debug)]
pub enum Choice {
    /// NCCL does.
    Nccl(Nccl),
    /// Nothing does: NCCL is not for these ranks, and device memory has to travel through the host.
    Host {
        /// The engine that was given.
        host: Arc<dyn Engine>,
        /// Which rank lacks what, or which of them share a GPU.
        reason: Error,
    },
}

impl Nccl {
    /// What this machine has, without ranks; never panics, whatever is missing.
    ///
    /// # Errors
    /// [`Error::Config`] says what is missing or too old, and what to do.
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

    /// As [`new`](Self::new), where a world without NCCL is to go on without it.
    ///
    /// # Errors
    /// As [`new`](Self::new), but a rank that lacks NCCL is no error. Unequal versions are: that is a
    /// mistake, and going through the host would hide it.
    pub fn if_everywhere(
        host: Arc<dyn Engine>,
        ordinal: usize,
        options: Options,
    ) -> Result<Choice> {
        Ok(match preflight::everywhere(&*host, ordinal, options)? {
            Ok((gpu, options)) => {
                let session = Arc::new(Session(gpu.clone()));
                let group = Group::new(host, gpu, options);
                Choice::Nccl(Self { group, session })
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

    fn barrier(&self, call: &Call) -> Result<()> {
        self.host().barrier(call)
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let host = self.host().split(call, color, key)?;
        let group = Group::new(host, self.group.gpu.clone(), self.group.options);
        let session = self.session.clone();
        Ok(Arc::new(Self { group, session }))
    }

    fn device(&self) -> Option<&dyn DeviceEngine> {
        Some(self)
    }

    fn fault(&self) -> Option<Error> {
        self.group.fault().or_else(|| self.host().fault())
    }

    fn abort(&self, error: Error) {
        // Whoever waits for a GPU asks the host, here and elsewhere.
        self.host().abort(error);
    }

    fn leave(&self) {
        // While the host's engine can still say that nothing has failed.
        self.session.finish();
        self.host().leave();
    }
}

impl DeviceEngine for Nccl {
    fn order(&self) -> Order {
        self.group.options.order
    }

    fn all_gather(&self, call: &Call, buffer: &DeviceBuffer) -> Result<Arrival> {
        let place = (self.rank(), self.members().len());
        self.group.run(call, Transfer::Gather(buffer, place))
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: &DeviceBuffer,
        recv: &DeviceBuffer,
    ) -> Result<Arrival> {
        self.group.run(call, Transfer::Scatter(op, send, recv))
    }

    fn all_reduce(&self, call: &Call, op: Reduce, buffer: &DeviceBuffer) -> Result<Arrival> {
        self.group.run(call, Transfer::Reduce(op, buffer))
    }

    fn broadcast(&self, call: &Call, root: usize, buffer: &DeviceBuffer) -> Result<Arrival> {
        self.group.run(call, Transfer::Broadcast(root, buffer))
    }
}
