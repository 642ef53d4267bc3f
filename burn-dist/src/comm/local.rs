//! Ranks as threads of one process.
//!
//! Every rank copies or adds what *it* needs straight from its peers' memory: one copy per byte,
//! no staging, and each rank reduces its own chunk. The ranks synchronize before, to publish where
//! their buffers are, and after, so that no buffer is freed while a peer reads it.

use super::thread_group::{ThreadGroup, WorldState};
use super::{
    Call, Engine, Parts, Reduce, Span, SpanMut, parts,
    reduce::{reduce, split_at},
};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of scratch memory of an all-reduce: few, so that they stay in a cache.
const SCRATCH: usize = 1 << 16;
/// The same with a thread pool: enough elements of any type for a reduction to use the pool.
const SHARED_SCRATCH: usize = 1 << 21;

/// Makes the engines of `size` thread ranks; `threads` is what each may use for reductions.
///
/// Hand one to each thread, in rank order. No collective waits longer than `deadline` for a peer.
pub fn ranks(size: usize, threads: usize, deadline: Duration) -> Vec<Local> {
    let world = Arc::new(WorldState::new(size, deadline));
    let group = Arc::new(ThreadGroup::new(world, (0..size).collect()));
    let pool = || {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
        // Without more threads a reduction is slower, not wrong.
        builder.build().ok().map(Arc::new)
    };
    let rank = |rank| Local {
        rank,
        group: group.clone(),
        pool: (threads > 1).then(pool).flatten(),
    };
    (0..size).map(rank).collect()
}

/// One thread's engine; a clone is the same rank.
#[derive(Debug, Clone)]
pub struct Local {
    rank: usize,
    group: Arc<ThreadGroup>,
    /// For large reductions; never the pool that the rank itself runs in, whose only worker may be
    /// blocked in this collective.
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl Engine for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn members(&self) -> &[usize] {
        self.group.members()
    }

    fn all_gather(&self, call: &Call, mut buffer: SpanMut<'_>) -> Result<()> {
        let (size, piece) = (self.members().len(), call.len * call.dtype.size());
        let len = buffer.bytes().len();
        assert_eq!(len, size * piece, "the communicator checks lengths");
        // While the round lasts, this memory is touched only through this pointer: peers read
        // this rank's piece, so no reference may cover the whole.
        let memory: *mut [u8] = buffer.bytes_mut();
        let round = self.group.begin_round(self.rank, call, memory, 1)?;
        // Each rank starts with the peer after itself, so that ranks read from different peers.
        for peer in (1..size).map(|step| (self.rank + step) % size) {
            let range = piece * peer..piece * (peer + 1);
            // SAFETY: of every buffer, peers read only the piece of its owner, which the owner
            // does not write. What is written here, another rank's piece in this rank's buffer,
            // is read by nobody else, and it lies inside the buffer.
            #[allow(unsafe_code)]
            unsafe {
                let from = round.part(peer, range.clone());
                let to = memory.cast::<u8>().add(range.start);
                std::ptr::copy_nonoverlapping(from.as_ptr(), to, piece);
            }
        }
        Ok(())
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        assert_eq!(
            (send.len(), send.len()),
            (call.len, recv.len() * self.members().len())
        );
        let round = self.group.begin_round(self.rank, call, send.bytes(), 1)?;
        let chunk = recv.bytes().len();
        let mine = chunk * self.rank..chunk * (self.rank + 1);
        // SAFETY: what is sent is borrowed, not written, by its owner.
        #[allow(unsafe_code)]
        let sources = unsafe { round.parts(mine) };
        let pool = self.pool.as_deref();
        reduce(send.dtype(), op, &sources, recv.bytes_mut(), pool);
        Ok(())
    }

    fn all_reduce(&self, call: &Call, op: Reduce, mut buffer: SpanMut<'_>) -> Result<()> {
        let (size, dtype, len) = (self.members().len(), buffer.dtype(), buffer.len());
        assert_eq!((len, dtype), (call.len, call.dtype));
        let chunk = |rank: usize| {
            let at = |r: usize| split_at(len, size, r) * dtype.size();
            at(rank)..at(rank + 1)
        };
        // While the round lasts, this memory is touched only through this pointer: peers read
        // parts of it, so no reference may cover the whole.
        let memory: *mut [u8] = buffer.bytes_mut();
        let round = self.group.begin_round(self.rank, call, memory, 2)?;
        let write = |range: Range<usize>, from: &[u8]| {
            assert!(range.end <= memory.len() && range.len() == from.len());
            // SAFETY: `range` is inside this rank's own buffer. Before the sync, chunk `r` of
            // every buffer is read by rank `r` alone, which is the one that writes it here;
            // after the sync, peers read only the writer's own chunk, and it writes the others.
            // So nobody else accesses `range`, and `from` is another rank's memory or a copy.
            #[allow(unsafe_code)]
            unsafe {
                let to = memory.cast::<u8>().add(range.start);
                std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
            }
        };
        let mine = chunk(self.rank);
        // 64-bit words, so that the bytes are aligned for every element type.
        let portion = if self.pool.is_some() {
            SHARED_SCRATCH
        } else {
            SCRATCH
        };
        let mut sum = vec![0u64; mine.len().min(portion).div_ceil(8)];
        let sum: &mut [u8] = bytemuck::cast_slice_mut(&mut sum);
        for start in mine.clone().step_by(portion) {
            let range = start..mine.end.min(start + portion);
            let sum = &mut sum[..range.len()];
            // SAFETY: before the sync only this rank writes to its chunk, and only after `sum`
            // was computed from what is read here.
            #[allow(unsafe_code)]
            let sources = unsafe { round.parts(range.clone()) };
            reduce(dtype, op, &sources, sum, self.pool.as_deref());
            write(range, sum);
        }
        round.sync();
        for peer in (0..size).filter(|peer| *peer != self.rank) {
            // SAFETY: after the sync nobody writes to the chunk of its own number.
            #[allow(unsafe_code)]
            write(chunk(peer), unsafe { round.part(peer, chunk(peer)) });
        }
        Ok(())
    }

    fn broadcast(&self, call: &Call, root: usize, mut buffer: SpanMut<'_>) -> Result<()> {
        assert_eq!((buffer.len(), buffer.dtype()), (call.len, call.dtype));
        let memory: *mut [u8] = buffer.bytes_mut();
        let round = self.group.begin_round(self.rank, call, memory, 1)?;
        if self.rank != root {
            // SAFETY: only the root's memory is read, and the root does not write.
            #[allow(unsafe_code)]
            let sent = unsafe { round.part(root, 0..memory.len()) };
            buffer.bytes_mut().copy_from_slice(sent);
        }
        Ok(())
    }

    fn all_to_all(
        &self,
        call: &Call,
        counts: &[usize],
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        let (size, width) = (self.members().len(), call.dtype.size());
        let table = Parts::new(counts, size);
        assert_eq!(
            (send.len(), recv.len()),
            (table.sent(self.rank), table.received(self.rank))
        );
        let round = self.group.begin_round(self.rank, call, send.bytes(), 1)?;
        // Each rank starts with its own part, so that ranks read from different peers.
        for peer in (0..size).map(|step| (self.rank + step) % size) {
            let to = parts::bytes(table.in_received(peer, self.rank), width);
            let from = parts::bytes(table.in_sent(peer, self.rank), width);
            // SAFETY: what is sent is borrowed, not written, by its owner.
            #[allow(unsafe_code)]
            let part = unsafe { round.part(peer, from) };
            recv.bytes_mut()[to].copy_from_slice(part);
        }
        Ok(())
    }

    fn barrier(&self, call: &Call) -> Result<()> {
        self.group.begin_round(self.rank, call, &[], 1).map(drop)
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let mine = [color, key, self.rank];
        let published: &[u8] = bytemuck::cast_slice(&mine);
        let round = self.group.begin_round(self.rank, call, published, 1)?;
        // SAFETY: nobody writes what is published.
        #[allow(unsafe_code)]
        let published = unsafe { round.parts(0..published.len()) };
        let mut members: Vec<[usize; 3]> = published
            .into_iter()
            .map(bytemuck::pod_read_unaligned::<[usize; 3]>)
            .filter(|[other, ..]| *other == color)
            .collect();
        members.sort_by_key(|[_, key, rank]| (*key, *rank));
        let ranks: Vec<usize> = members.iter().map(|[.., rank]| *rank).collect();
        Ok(Arc::new(Local {
            rank: ranks.iter().position(|r| *r == self.rank).unwrap_or(0),
            group: self.group.child(color, &ranks),
            pool: self.pool.clone(),
        }))
    }

    fn fault(&self) -> Option<Error> {
        self.group.world().fault()
    }

    fn abort(&self, error: Error) {
        self.group.fail(error);
    }

    fn leave(&self) {
        self.group.leave(self.rank);
    }
}
