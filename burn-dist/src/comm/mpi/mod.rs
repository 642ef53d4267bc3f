//! Ranks as processes that `mpirun` (or `srun`) has started, for clusters whose fast network is
//! reached through the site's MPI. Feature `mpi`.
//!
//! Of the two bindings, this is built on `ferrompi`: its persistent requests own their buffers, so
//! that a wait can be given up soundly at a deadline and without `unsafe` here; its errors are
//! returned, and its handles may be used from the communication thread. `mpi` (rsmpi) leaves MPI's
//! errors fatal, ties every request to a scope that waits for it, and needs libclang to build.
//!
//! # What is promised
//!
//! Only point-to-point messages are used, because MPI's own collectives cannot be given up and
//! leave the order of a sum open. Each rank sends the digest of its call to each other rank, small
//! data along with it; larger data follows in blocks, and reductions add in rank order, so that
//! results are bit for bit those of [`local`](super::local). A rank holds two or three blocks of
//! each peer at most, whatever the size of the data. As everybody writes to everybody, a collective
//! costs each rank one message per peer at least: fine for hundreds of ranks, not for thousands.
//!
//! - A timeout names exactly the ranks whose message had not come. MPI says nothing of a
//!   peer's health: one that is only slow, stopped, or cut off looks the same.
//! - [`abort`](Engine::abort) and [`leave`](Engine::leave) are messages to every rank. A rank learns of
//!   them when it next waits, and one that computes learns later. Two ranks that fail at the same
//!   moment may each keep their own cause.
//! - Where a *process dies*, plain MPI is fatal: `mpirun` kills the whole job, and no rank returns an
//!   error. That is no hang, and it is all that MPI without ULFM offers.
//! - Every process must end with [`close`]; [`launch::Mpi`](crate::launch::Mpi) does so.
//!
//! Hosts are taken to agree on the order of bytes in a word.

mod exchange;
mod port;
mod text;
mod traffic;

use super::{Call, Engine, Reduce, Span, SpanMut, reduce::split_at};
use crate::error::{Error, Result};
use exchange::{large, part, place, place_small, small};
use port::Port;
use std::sync::Arc;
use std::time::Duration;

/// Data of up to so many bytes travels with the digest; together they stay below what MPI sends
/// without asking the receiver first.
const SMALL: usize = 2 << 10;
/// The engine of this process's rank in a world of all processes.
///
/// The first call begins MPI; so `mpirun` must have started all processes. Every process calls it
/// equally often, and each call makes a world of its own: what fails in one leaves the others alone.
/// No collective waits longer than `deadline` without hearing from a peer.
///
/// # Errors
/// [`Error::Config`] if MPI does not start, has ended, was begun by other code, or does not
/// allow calls from several threads.
pub fn world(deadline: Duration) -> Result<Mpi> {
    let port = Port::open()?;
    let world = text::child(0, port.next_world(), 0);
    Ok(Mpi {
        rank: port.rank,
        members: (0..port.size).collect(),
        group: Arc::new(Group { port, id: world }),
        world,
        deadline,
    })
}

/// Says goodbye, waits until all ranks have, and ends MPI; call it last, on the thread that
/// called [`world`] first.
///
/// # Errors
/// [`Error::Timeout`] names the ranks that were not heard of for `patience`. MPI is then left as
/// it is, since ending it would wait for them without end; `mpirun` ends the job when the process
/// exits. [`Error::Config`] if MPI has not begun, or not here.
pub fn close(patience: Duration) -> Result<()> {
    match Port::get() {
        Some(port) => port.close(patience),
        None => Err(Error::config(
            "MPI in this process",
            "to have begun",
            "not begun",
        )),
    }
}

/// One process's engine; a clone is the same rank.
#[derive(Debug, Clone)]
pub struct Mpi {
    rank: usize,
    members: Arc<[usize]>,
    group: Arc<Group>,
    /// Whose fate this group shares.
    world: u64,
    deadline: Duration,
}

/// Messages of one group.
#[derive(Debug)]
struct Group {
    port: Arc<Port>,
    id: u64,
}

impl Drop for Group {
    fn drop(&mut self) {
        // A failed collective leaves messages behind.
        let _ = self.port.look(|view| view.forget(self.id));
    }
}

impl Mpi {
    /// How many ranks, this one included, may compute on the cores of this one.
    pub fn sharing(&self) -> usize {
        self.port().sharing
    }

    /// This rank's number among those of its host.
    pub fn local_rank(&self) -> usize {
        self.port().local_rank
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
        if piece > SMALL {
            self.meet(call, |_| &[])?;
            return self.spread(call, buffer, chunk, None);
        }
        let came = self.meet(call, |_| &buffer[chunk(self.rank)])?;
        place_small(buffer, &came, chunk);
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
        if piece <= SMALL {
            let came = self.meet(call, |peer| &send[chunk(peer)])?;
            self.reduce(call, op, own, &small(&came), recv.bytes_mut());
            return Ok(());
        }
        self.meet(call, |_| &[])?;
        let block = self.block();
        let plan = |round, _, to| part(chunk(to), round, block);
        let mut state = (send, recv.bytes_mut());
        let rounds = self.rounds(chunk);
        self.exchange(
            call,
            rounds,
            &mut state,
            plan,
            |s| s.0,
            |state, round, came| {
                let range = part(0..piece, round, block);
                let out = &mut state.1[range.clone()];
                self.reduce(call, op, &own[range], &large(came), out);
            },
        )
    }

    fn all_reduce(&self, call: &Call, op: Reduce, mut buffer: SpanMut<'_>) -> Result<()> {
        let (size, width) = (self.size(), buffer.dtype().size());
        let len = buffer.len();
        let chunk =
            |rank: usize| split_at(len, size, rank) * width..split_at(len, size, rank + 1) * width;
        let mut buffer = buffer.bytes_mut();
        // Words, so that the bytes are aligned for every element type.
        let mut sum = vec![0u64; buffer.len().min(self.block()).div_ceil(8)];
        let sum: &mut [u8] = bytemuck::cast_slice_mut(&mut sum);
        if buffer.len() <= SMALL {
            let came = self.meet(call, |_| buffer)?;
            let sum = &mut sum[..buffer.len()];
            self.reduce(call, op, buffer, &small(&came), sum);
            buffer.copy_from_slice(sum);
            return Ok(());
        }
        self.meet(call, |_| &[])?;
        let block = self.block();
        let plan = |round, _, to| part(chunk(to), round, block);
        let rounds = self.rounds(chunk);
        self.exchange(
            call,
            rounds,
            &mut buffer,
            plan,
            |b| b,
            |buffer, round, came| {
                // Of this chunk, peers are sent nothing before all of it is a sum.
                let own = &mut buffer[part(chunk(self.rank), round, block)];
                let sum = &mut sum[..own.len()];
                self.reduce(call, op, own, &large(came), sum);
                own.copy_from_slice(sum);
            },
        )?;
        self.spread(call, buffer, chunk, None)
    }

    fn broadcast(&self, call: &Call, root: usize, mut buffer: SpanMut<'_>) -> Result<()> {
        let size = self.size();
        let mut buffer = buffer.bytes_mut();
        let len = buffer.len();
        if len <= SMALL {
            let given: &[u8] = if self.rank == root { buffer } else { &[] };
            let came = self.meet(call, |_| given)?;
            place_small(
                buffer,
                &came,
                |peer| if peer == root { 0..len } else { 0..0 },
            );
            return Ok(());
        }
        self.meet(call, |_| &[])?;
        // The root sends each byte once, and the others spread it.
        let chunk = |rank: usize| split_at(len, size, rank)..split_at(len, size, rank + 1);
        let block = self.block();
        let plan = |round, from, to| match from == root {
            true => part(chunk(to), round, block),
            false => 0..0,
        };
        let rounds = self.rounds(chunk);
        self.exchange(
            call,
            rounds,
            &mut buffer,
            plan,
            |b| b,
            |buffer, round, came| {
                place(buffer, came, |_| part(chunk(self.rank), round, block));
            },
        )?;
        self.spread(call, buffer, chunk, Some(root))
    }

    fn barrier(&self, call: &Call) -> Result<()> {
        self.meet(call, |_| &[]).map(drop)
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let mine = [color as u64, key as u64];
        let came = self.meet(call, |_| bytemuck::cast_slice(&mine))?;
        let wish = |(rank, data): (usize, Option<&[u8]>)| {
            let [color, key] = data.map_or(mine, bytemuck::pod_read_unaligned);
            (color, key, rank)
        };
        let mut members: Vec<_> = small(&came).into_iter().enumerate().map(wish).collect();
        members.retain(|(other, ..)| *other == mine[0]);
        members.sort_by_key(|(_, key, rank)| (*key, *rank));
        Ok(Arc::new(Self {
            rank: members
                .iter()
                .position(|(.., r)| *r == self.rank)
                .unwrap_or(0),
            members: members.iter().map(|(.., r)| self.members[*r]).collect(),
            group: Arc::new(Group {
                port: self.group.port.clone(),
                id: text::child(self.group.id, call.sequence, mine[0]),
            }),
            world: self.world,
            deadline: self.deadline,
        }))
    }

    fn fault(&self) -> Option<Error> {
        let news = self.port().look(|view| view.fault(self.world));
        news.unwrap_or_else(|error| Some(self.fail(error)))
    }

    fn abort(&self, error: Error) {
        self.fail(error);
    }

    fn leave(&self) {
        self.port().leave(self.world);
    }
}
