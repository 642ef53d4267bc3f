//! The contract between the library and the transport that moves the bytes.
//!
//! An engine knows ranks and bytes, nothing of models. There are engines for threads of one process
//! ([`local`](super::local)), for processes over sockets and shared memory ([`mesh`](super::mesh)), and
//! for MPI. Another one can be written in another crate with public items only:
//!
//! - [`agree`](super::agree) compares the [`Call`]s of all ranks and makes the error where they differ;
//! - [`reduce_into`](super::reduce_into) is the arithmetic of reductions;
//! - [`Error::Timeout`], [`Error::PeerLeft`] and [`Error::PeerFailed`] ([`Error::peer_failed`]) are the
//!   errors of a rank that waits.
//!
//! All engines pass the conformance suite, the crate `burn-dist-conformance` in this repository. Its
//! `tests/outside` is a small engine of this kind, written as an example.

use super::{Call, DeviceEngine, Op, Parts, Reduce, Span, SpanMut, parts};
use crate::error::{Error, Result};
use std::fmt::Debug;
use std::sync::Arc;

/// Moves bytes between the ranks of one group.
///
/// The caller, [`Communicator`](super::Communicator), has checked lengths and types against the
/// `call`, and alignment, and issues one collective of a group after the other; groups of one rank move
/// nothing, so only their splits come here. Several groups may be used at once, by several threads. The
/// engine's duties are:
///
/// - compare the `call` of all ranks before any byte is written, and fail on all of them alike if
///   they differ ([`agree`](super::agree));
/// - reduce in rank order, f16 and bf16 in f32, so that results repeat bit for bit;
/// - end within the deadline, whatever the other ranks do; name who was missing;
/// - fail for good after the first error: the group is then out of step, and every later call
///   fails with that same cause at once.
pub trait Engine: Debug + Send + Sync {
    /// This rank's index in the group, from 0.
    fn rank(&self) -> usize;

    /// The ranks of the group, by their rank in the world.
    fn members(&self) -> &[usize];

    /// `buffer` becomes the concatenation of every rank's shard, in rank order; this rank has
    /// written its own already.
    fn all_gather(&self, call: &Call, buffer: SpanMut<'_>) -> Result<()>;

    /// `recv` is the reduction of every rank's chunk number [`rank`](Self::rank) of `send`.
    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: Span<'_>,
        recv: SpanMut<'_>,
    ) -> Result<()>;

    /// `buffer` becomes the reduction of every rank's `buffer`.
    fn all_reduce(&self, call: &Call, op: Reduce, buffer: SpanMut<'_>) -> Result<()>;

    /// `buffer` becomes `root`'s `buffer`.
    fn broadcast(&self, call: &Call, root: usize, buffer: SpanMut<'_>) -> Result<()>;

    /// Each rank's part of `send` goes to that rank; `recv` has every rank's part for this one.
    ///
    /// [`Parts`] of `counts`, which are the same on all ranks, says where in the buffers the parts lie;
    /// the `call` has a digest of them. An engine without an exchange of its own gets one by broadcasts, in
    /// which every rank receives what all ranks send.
    fn all_to_all(
        &self,
        call: &Call,
        counts: &[usize],
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        self.barrier(call)?;
        let (rank, size, width) = (self.rank(), self.members().len(), call.dtype.size());
        let parts = Parts::new(counts, size);
        for from in 0..size {
            let len = parts.sent(from);
            if len == 0 {
                continue;
            }
            // 64-bit words, so that the bytes are aligned for every element type.
            let mut words = vec![0u64; (len * width).div_ceil(8)];
            let all = &mut bytemuck::cast_slice_mut::<_, u8>(&mut words)[..len * width];
            if from == rank {
                all.copy_from_slice(send.bytes());
            }
            let mut broadcast = Call::new(Op::Broadcast, &call.label, call.dtype, len);
            (broadcast.sequence, broadcast.step) = (call.sequence, call.step);
            broadcast.root = Some(from);
            self.broadcast(&broadcast, from, SpanMut::new(all, call.dtype))?;
            let to = parts::bytes(parts.in_received(from, rank), width);
            let mine = parts::bytes(parts.in_sent(from, rank), width);
            recv.bytes_mut()[to].copy_from_slice(&all[mine]);
        }
        Ok(())
    }

    /// Returns when every rank has called it.
    fn barrier(&self, call: &Call) -> Result<()>;

    /// The engine of those ranks that gave the same `color`, ordered by `key`, then by rank.
    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>>;

    /// Collectives between the memories of devices, if this engine has them.
    fn device(&self) -> Option<&dyn DeviceEngine> {
        None
    }

    /// Why the group is broken, as far as this rank has been told; does not wait.
    ///
    /// It is asked while a rank waits for something other than a collective.
    fn fault(&self) -> Option<Error>;

    /// Makes every rank's pending and later calls fail with `error`; the first one wins.
    fn abort(&self, error: Error);

    /// Tells the other ranks that this one will issue no more calls.
    fn leave(&self);
}
