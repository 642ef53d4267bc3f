//! Ranks as processes that `mpirun` (or `srun`) has started, for clusters whose fast network is
//! reached through the site's MPI. Feature `mpi`.
//!
//! Of the two bindings, this is built on `ferrompi`: its persistent requests own their buffers, so
//! that a wait can end at a deadline, soundly and without `unsafe` here; its errors are
//! returned, and its handles may be used from the communication thread. `mpi` (rsmpi) leaves MPI's
//! errors fatal, ties every request to a scope that waits for it, and needs libclang to build.
//!
//! # What is promised
//!
//! Only point-to-point messages are used, because MPI's own collectives cannot be cancelled and
//! do not define the order of a sum. Each rank sends the digest of its call to each other rank, small
//! data along with it; larger data follows in blocks, and reductions add in rank order, so that
//! results are bit for bit those of [`local`](super::local). A rank holds two or three blocks of
//! each peer at most, whatever the size of the data. Every rank sends to every rank, so a
//! collective costs each rank at least one message per peer: fine for hundreds of ranks, not for thousands.
//!
//! - A timeout names exactly the ranks whose message had not come. MPI reports nothing of a
//!   peer's health: a slow, a stopped and a disconnected one look the same.
//! - [`abort`](Engine::abort) and [`leave`](Engine::leave) are messages to every rank. A rank receives
//!   them when it next waits in a collective. Two ranks that fail at the same
//!   moment may each keep their own cause.
//! - Where a *process dies*, plain MPI is fatal: `mpirun` kills the whole job, and no rank returns an
//!   error. So nothing hangs, and MPI without ULFM offers no more.
//! - Every process must end with [`close`]; [`launch::Mpi`](crate::launch::Mpi) does so.
//!
//! All hosts must have the same byte order.

mod endpoint;
mod exchange;
mod group;
mod job_size;
mod messages;
mod wire;

use super::{Call, Engine, Parts, Reduce, Span, SpanMut, parts, reduce::split_at};
use crate::error::{Error, Result};
use endpoint::Endpoint;
use exchange::{block_of, copy_small_to, copy_to, inline_data, round_data};
use group::MpiGroup;
use std::sync::Arc;
use std::time::Duration;

pub use group::Mpi;

/// Data of up to so many bytes is sent in one message with the digest, which stays below MPI's limit for
/// eager sends.
const INLINE_UP_TO: usize = 2 << 10;

/// The engine of this process's rank in a world of all processes.
///
/// The first call starts MPI, so `mpirun` must have started all processes. Every process calls it
/// equally often, and each call makes a world of its own: a failure in one does not affect the others.
/// No collective waits longer than `deadline` without hearing from a peer.
///
/// # Errors
/// [`Error::Config`] if MPI does not start, has ended, was started by other code, does not
/// allow calls from several threads, or is another than that of the `mpirun` that started this process: it would
/// be a world of one rank.
pub fn world(deadline: Duration) -> Result<Mpi> {
    let endpoint = Endpoint::open()?;
    let world = wire::group_id(0, endpoint.next_world(), 0);
    Ok(Mpi {
        rank: endpoint.rank,
        members: (0..endpoint.size).collect(),
        group: Arc::new(MpiGroup {
            endpoint,
            id: world,
        }),
        world,
        deadline,
    })
}

/// Waits until all ranks have called it, and ends MPI; call it last, on the thread that
/// called [`world`] first.
///
/// # Errors
/// [`Error::Timeout`] names the ranks that have not called it within `timeout`. MPI is then not
/// ended, because that would wait for them forever; `mpirun` ends the job when the process
/// exits. [`Error::Config`] if MPI has not started, or on another thread.
pub fn close(timeout: Duration) -> Result<()> {
    match Endpoint::get() {
        Some(endpoint) => endpoint.close(timeout),
        None => Err(Error::config(
            "MPI in this process",
            "to have started",
            "not started",
        )),
    }
}

impl Engine for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn members(&self) -> &[usize] {
        &self.members
    }

    fn all_gather(&self, call: &Call, mut buffer: SpanMut<'_>) -> Result<()> {
        let piece = call.len * call.dtype.size();
        let chunk = |rank: usize| piece * rank..piece * (rank + 1);
        let buffer = buffer.bytes_mut();
        if piece > INLINE_UP_TO {
            self.exchange_calls(call, |_| &[])?;
            return self.send_chunks(call, buffer, chunk, None);
        }
        let received = self.exchange_calls(call, |_| &buffer[chunk(self.rank)])?;
        copy_small_to(buffer, &received, chunk);
        Ok(())
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        let piece = recv.bytes().len();
        let chunk = |rank: usize| piece * rank..piece * (rank + 1);
        let send = send.bytes();
        let own = &send[chunk(self.rank)];
        if piece <= INLINE_UP_TO {
            let received = self.exchange_calls(call, |peer| &send[chunk(peer)])?;
            self.reduce(call, op, own, &inline_data(&received), recv.bytes_mut());
            return Ok(());
        }
        self.exchange_calls(call, |_| &[])?;
        let block = self.block();
        let plan = |round, _, to| block_of(chunk(to), round, block);
        let mut state = (send, recv.bytes_mut());
        let rounds = self.rounds(chunk);
        self.exchange(
            call,
            rounds,
            &mut state,
            plan,
            |s| s.0,
            |state, round, received| {
                let range = block_of(0..piece, round, block);
                let out = &mut state.1[range.clone()];
                self.reduce(call, op, &own[range], &round_data(received), out);
            },
        )
    }

    fn all_reduce(&self, call: &Call, op: Reduce, mut buffer: SpanMut<'_>) -> Result<()> {
        let (size, width) = (self.size(), buffer.dtype().size());
        let len = buffer.len();
        let chunk =
            |rank: usize| split_at(len, size, rank) * width..split_at(len, size, rank + 1) * width;
        let mut buffer = buffer.bytes_mut();
        // 64-bit words, so that the bytes are aligned for every element type.
        let mut sum = vec![0u64; buffer.len().min(self.block()).div_ceil(8)];
        let sum: &mut [u8] = bytemuck::cast_slice_mut(&mut sum);
        if buffer.len() <= INLINE_UP_TO {
            let received = self.exchange_calls(call, |_| buffer)?;
            let sum = &mut sum[..buffer.len()];
            self.reduce(call, op, buffer, &inline_data(&received), sum);
            buffer.copy_from_slice(sum);
            return Ok(());
        }
        self.exchange_calls(call, |_| &[])?;
        let block = self.block();
        let plan = |round, _, to| block_of(chunk(to), round, block);
        let rounds = self.rounds(chunk);
        self.exchange(
            call,
            rounds,
            &mut buffer,
            plan,
            |b| b,
            |buffer, round, received| {
                // Peers receive this chunk only after all of it is reduced, so it is reduced in place.
                let own = &mut buffer[block_of(chunk(self.rank), round, block)];
                let sum = &mut sum[..own.len()];
                self.reduce(call, op, own, &round_data(received), sum);
                own.copy_from_slice(sum);
            },
        )?;
        self.send_chunks(call, buffer, chunk, None)
    }

    fn broadcast(&self, call: &Call, root: usize, mut buffer: SpanMut<'_>) -> Result<()> {
        let size = self.size();
        let mut buffer = buffer.bytes_mut();
        let len = buffer.len();
        if len <= INLINE_UP_TO {
            let given: &[u8] = if self.rank == root { buffer } else { &[] };
            let received = self.exchange_calls(call, |_| given)?;
            copy_small_to(
                buffer,
                &received,
                |peer| if peer == root { 0..len } else { 0..0 },
            );
            return Ok(());
        }
        self.exchange_calls(call, |_| &[])?;
        // The root sends each byte once: a chunk to each rank, which sends it to the others.
        let chunk = |rank: usize| split_at(len, size, rank)..split_at(len, size, rank + 1);
        let block = self.block();
        let plan = |round, from, to| {
            if from == root {
                block_of(chunk(to), round, block)
            } else {
                0..0
            }
        };
        let rounds = self.rounds(chunk);
        self.exchange(
            call,
            rounds,
            &mut buffer,
            plan,
            |b| b,
            |buffer, round, received| {
                copy_to(buffer, received, |_| {
                    block_of(chunk(self.rank), round, block)
                });
            },
        )?;
        self.send_chunks(call, buffer, chunk, Some(root))
    }

    fn all_to_all(
        &self,
        call: &Call,
        counts: &[usize],
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        let (me, width) = (self.rank, call.dtype.size());
        let table = Parts::new(counts, self.size());
        let sent = |from, to| parts::bytes(table.in_sent(from, to), width);
        let target = |from| parts::bytes(table.in_received(from, me), width);
        let (send, recv) = (send.bytes(), recv.bytes_mut());
        let longest = counts.iter().max().map_or(0, |count| count * width);
        if longest <= INLINE_UP_TO {
            let received = self.exchange_calls(call, |peer| &send[sent(me, peer)])?;
            copy_small_to(recv, &received, target);
            recv[target(me)].copy_from_slice(&send[sent(me, me)]);
            return Ok(());
        }
        self.exchange_calls(call, |_| &[])?;
        recv[target(me)].copy_from_slice(&send[sent(me, me)]);
        let block = self.block();
        let plan = |round, from, to| block_of(sent(from, to), round, block);
        let mut state = (send, recv);
        self.exchange(
            call,
            longest.div_ceil(block),
            &mut state,
            plan,
            |s| s.0,
            |state, round, received| {
                copy_to(state.1, received, |peer| {
                    block_of(target(peer), round, block)
                });
            },
        )
    }

    fn barrier(&self, call: &Call) -> Result<()> {
        self.exchange_calls(call, |_| &[]).map(drop)
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let mine = [color as u64, key as u64];
        let received = self.exchange_calls(call, |_| bytemuck::cast_slice(&mine))?;
        let requested = |(rank, data): (usize, Option<&[u8]>)| {
            let [color, key] = data.map_or(mine, bytemuck::pod_read_unaligned);
            (color, key, rank)
        };
        let mut members: Vec<_> = inline_data(&received)
            .into_iter()
            .enumerate()
            .map(requested)
            .collect();
        members.retain(|(other, ..)| *other == mine[0]);
        members.sort_by_key(|(_, key, rank)| (*key, *rank));
        Ok(Arc::new(Self {
            rank: members
                .iter()
                .position(|(.., r)| *r == self.rank)
                .unwrap_or(0),
            members: members.iter().map(|(.., r)| self.members[*r]).collect(),
            group: Arc::new(MpiGroup {
                endpoint: self.group.endpoint.clone(),
                id: wire::group_id(self.group.id, call.sequence, mine[0]),
            }),
            world: self.world,
            deadline: self.deadline,
        }))
    }

    fn fault(&self) -> Option<Error> {
        let fault = self.endpoint().progress(|view| view.fault(self.world));
        fault.unwrap_or_else(|error| Some(self.fail(error)))
    }

    fn abort(&self, error: Error) {
        self.fail(error);
    }

    fn leave(&self) {
        self.endpoint().leave(self.world);
    }
}
