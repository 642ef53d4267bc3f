//! Ranks as processes, on one host or many.
//!
//! Every two ranks of a group have a link: shared memory where both run under one kernel, TCP
//! elsewhere. A collective announces itself on all links, and data may follow at once, but no
//! rank reads or writes its caller's buffers before the announcements of all ranks have come and are equal.
//! Each rank then sends every other one exactly what that one needs, `(n - 1) / n` of the buffer in
//! all, and adds what it receives in rank order, block by block: results are bit for bit those of
//! [thread ranks](super::local). Processes that may read each other's memory copy large buffers once, from
//! where they are; elsewhere bytes pass through a ring or a socket. Where several hosts have several ranks each, large buffers are
//! relayed from rank to rank instead, so that they cross the network once (`relay`).
//!
//! The thread that runs the collective sends and receives alternately; there is no other thread. A rank
//! that waits first spins, then sleeps until a socket is ready.

mod block;
mod connect;
mod cores;
mod direct;
pub(crate) mod frame;
mod link;
mod listener;
mod options;
mod process_memory;
mod relay;
mod ring;
mod round;
mod shaping;
mod transfer;
mod transport;

use super::{Call, Dtype, Engine, Op, Parts, Reduce, Span, SpanMut, parts, reduce::split_at};
use crate::error::{Error, Result};
use crate::rendezvous::Seat;
pub use cores::Cores;
use direct::{Chunk, split_parts, take_own};
use frame::{BLOCK, Header, Kind, LENT_BLOCK, announce};
use link::Link;
use options::hash;
pub use options::{Advertise, Options, host};
use relay::RELAY_FROM;
use round::MeshRound;
pub use shaping::LinkShape;
use shaping::Shaper;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use transfer::{Incoming, Outgoing};
pub use transport::Transport;

/// How long leaving waits for room on a link.
const LEAVE_WAIT: Duration = Duration::from_secs(2);
/// All-reduces up to so many bytes send the whole buffer to every rank: one exchange instead of two.
const ONE_STEP_UP_TO: usize = 16 << 10;

/// One process's engine.
#[derive(Debug)]
pub struct Mesh {
    seat: Arc<Seat>,
    options: Options,
    /// The group's name in the store.
    group: String,
    rank: usize,
    members: Vec<usize>,
    links: Mutex<Vec<Option<Link>>>,
    /// The link to other nodes, if it is shaped; after `links`, which are dropped before it.
    shaper: Option<Arc<Shaper>>,
    /// Whether large buffers are relayed from rank to rank.
    relays: bool,
    broken: Mutex<Option<Error>>,
    /// Whether this rank has left the group.
    left: AtomicBool,
}

impl Mesh {
    /// Connects the ranks of a world with each other; all of them call it.
    ///
    /// # Errors
    /// [`Error::Join`] or [`Error::Timeout`] for peers that cannot be reached;
    /// [`Error::Config`] if the transport cannot be had.
    pub fn new(seat: Arc<Seat>, options: Options) -> Result<Self> {
        let (rank, members) = (seat.terms().rank, (0..seat.terms().world).collect());
        let shaper = Shaper::join(&seat, &options)?;
        let mesh = Self::connect(seat, options, shaper, "world".into(), rank, members)?;
        if rank == 0 && mesh.members.len() > 1 {
            let links = mesh.links.lock().unwrap_or_else(PoisonError::into_inner);
            let count =
                |is: fn(&Link) -> bool| links.iter().flatten().filter(|link| is(link)).count();
            let (tcp, in_place) = (count(Link::is_checked), count(Link::reads_in_place));
            let memory = mesh.members.len() - 1 - tcp;
            log::info!(
                "rank 0 reaches {memory} rank(s) through shared memory ({in_place} read its buffers \
                 in place), {tcp} over TCP"
            );
            if let (Some(shaper), Some(link)) = (&mesh.shaper, mesh.options.link) {
                let far = mesh.members.iter().filter(|r| shaper.is_far(**r)).count();
                log::info!("{far} of them on other nodes, behind a link of {link}");
            }
        }
        Ok(mesh)
    }

    fn connect(
        seat: Arc<Seat>,
        options: Options,
        shaper: Option<Arc<Shaper>>,
        group: String,
        rank: usize,
        members: Vec<usize>,
    ) -> Result<Self> {
        let shaped = shaper.as_deref();
        let links = connect::connect(&seat, &options, shaped, &group, rank, &members)?;
        let mut mesh = Self {
            seat,
            options,
            group,
            rank,
            members,
            links: Mutex::new(links),
            shaper,
            relays: false,
            broken: Mutex::default(),
            left: AtomicBool::new(false),
        };
        mesh.relays = relay::is_worth_it(&mesh.hosts()?);
        Ok(mesh)
    }

    /// A number for every member's host.
    fn hosts(&self) -> Result<Vec<u64>> {
        let mut hosts = vec![0; self.members.len()];
        hosts[self.rank] = hash(&self.options.host);
        let call = Call::new(Op::AllGather, &"hosts".into(), Dtype::U64, 1);
        self.all_gather(&call, SpanMut::of(&mut hosts))?;
        Ok(hosts)
    }

    /// Announces a collective without data.
    fn announce(&self, round: &mut MeshRound<'_>, call: &Call) -> Result<()> {
        let announcement = announce(call);
        let mut sends = self.to_all(call, &announcement, &[]);
        round.agree(&mut sends)?;
        round.exchange(&mut sends, &mut [])
    }

    /// The other members' ranks in the group.
    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let mine = self.rank;
        (0..self.members.len()).filter(move |peer| *peer != mine)
    }

    /// The same payload for every peer, after an announcement.
    fn to_all<'a>(
        &self,
        call: &Call,
        announcement: &'a [u8],
        payload: &'a [u8],
    ) -> Vec<Outgoing<'a>> {
        let to = |peer| {
            let outgoing = Outgoing::new(peer, call, payload).announced(announcement);
            outgoing.lent_in(LENT_BLOCK)
        };
        self.peers().map(to).collect()
    }

    fn broken(&self) -> Option<Error> {
        self.broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Breaks the world with `error`; returns the world's first failure, which this rank reports.
    fn fail(&self, error: Error, call: &Call) -> Error {
        let error = self.with_context(self.seat.abort(error), call);
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get_or_insert(error).clone()
    }

    /// The world's failure, with the call that this rank was in.
    fn with_context(&self, error: Error, call: &Call) -> Error {
        let me = self.members[self.rank];
        match error {
            Error::PeerLost { peer, why, waiting } if waiting.is_empty() => {
                let waiting = format!("rank {me} was in {call}");
                Error::PeerLost { peer, why, waiting }
            }
            Error::PeerFailed { peer, cause } if peer != me => {
                let cause = format!("{cause}; rank {me} was in {call}");
                Error::PeerFailed { peer, cause }
            }
            other => other,
        }
    }
}

impl Engine for Mesh {
    fn rank(&self) -> usize {
        self.rank
    }

    fn members(&self) -> &[usize] {
        &self.members
    }

    fn all_gather(&self, call: &Call, mut buffer: SpanMut<'_>) -> Result<()> {
        let piece = call.len * call.dtype.size();
        let mut round = MeshRound::begin(self, call)?;
        let relays = self.relays && buffer.bytes().len() >= RELAY_FROM;
        let mut parts = split_parts(buffer.bytes_mut(), |_| piece, self.members.len());
        if relays {
            self.announce(&mut round, call)?;
            return self.ring_all_gather(&mut round, call, &mut parts);
        }
        let (own, others) = take_own(&mut parts, self.rank);
        let announcement = announce(call);
        let mut sends = self.to_all(call, &announcement, own);
        round.agree(&mut sends)?;
        let want = |(peer, part)| Incoming::new(peer, call, part);
        let mut wants: Vec<_> = self.peers().zip(others).map(want).collect();
        round.exchange(&mut sends, &mut wants)
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        let chunk = recv.bytes().len();
        let part = |rank: usize| &send.bytes()[chunk * rank..chunk * (rank + 1)];
        let mut round = MeshRound::begin(self, call)?;
        if self.relays && send.bytes().len() >= RELAY_FROM {
            self.announce(&mut round, call)?;
            let chunks: Vec<&[u8]> = (0..self.members.len()).map(part).collect();
            let kind = (send.dtype(), op);
            return self.chain_reduce(&mut round, call, kind, &chunks, recv.bytes_mut());
        }
        let announcement = announce(call);
        let to = |peer| {
            let outgoing = Outgoing::new(peer, call, part(peer)).announced(&announcement);
            outgoing.lent_in(BLOCK)
        };
        let mut sends: Vec<_> = self.peers().map(to).collect();
        round.agree(&mut sends)?;
        let own = Chunk::Separate(part(self.rank), recv.bytes_mut());
        self.reduce_chunk(&mut round, call, (send.dtype(), op), &mut sends, own)
    }

    fn all_reduce(&self, call: &Call, op: Reduce, mut buffer: SpanMut<'_>) -> Result<()> {
        let (dtype, len, size) = (buffer.dtype(), buffer.len(), self.members.len());
        let mut round = MeshRound::begin(self, call)?;
        let announcement = announce(call);
        if buffer.bytes().len() <= ONE_STEP_UP_TO {
            let mine = buffer.bytes().to_vec();
            let mut sends = self.to_all(call, &announcement, &mine);
            round.agree(&mut sends)?;
            let own = Chunk::InPlace(buffer.bytes_mut(), Vec::new());
            return self.reduce_chunk(&mut round, call, (dtype, op), &mut sends, own);
        }
        let share = |rank: usize| {
            (split_at(len, size, rank + 1) - split_at(len, size, rank)) * dtype.size()
        };
        let relays = self.relays && buffer.bytes().len() >= RELAY_FROM;
        let mut parts = split_parts(buffer.bytes_mut(), share, size);
        if relays {
            self.announce(&mut round, call)?;
            let mut mine = vec![0u64; share(self.rank).div_ceil(8)];
            let mine = &mut bytemuck::cast_slice_mut::<_, u8>(&mut mine)[..share(self.rank)];
            let chunks: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
            self.chain_reduce(&mut round, call, (dtype, op), &chunks, mine)?;
            parts[self.rank].copy_from_slice(mine);
            return self.ring_all_gather(&mut round, call, &mut parts);
        }
        {
            let (own, others) = take_own(&mut parts, self.rank);
            let to = |(peer, part)| {
                let outgoing = Outgoing::new(peer, call, part).announced(&announcement);
                outgoing.lent_in(BLOCK)
            };
            let others = others.into_iter().map(|part| &*part);
            let mut sends: Vec<_> = self.peers().zip(others).map(to).collect();
            round.agree(&mut sends)?;
            let own = Chunk::InPlace(own, Vec::new());
            self.reduce_chunk(&mut round, call, (dtype, op), &mut sends, own)?;
        }
        let (own, others) = take_own(&mut parts, self.rank);
        let mut sends = self.to_all(call, &[], own);
        let want = |(peer, part)| Incoming::new(peer, call, part);
        let mut wants: Vec<_> = self.peers().zip(others).map(want).collect();
        round.exchange(&mut sends, &mut wants)
    }

    fn broadcast(&self, call: &Call, root: usize, mut buffer: SpanMut<'_>) -> Result<()> {
        let mut round = MeshRound::begin(self, call)?;
        let announcement = announce(call);
        if self.rank == root {
            let mut sends = self.to_all(call, &announcement, buffer.bytes());
            round.agree(&mut sends)?;
            return round.exchange(&mut sends, &mut []);
        }
        let mut sends = self.to_all(call, &announcement, &[]);
        round.agree(&mut sends)?;
        round.exchange(
            &mut sends,
            &mut [Incoming::new(root, call, buffer.bytes_mut())],
        )
    }

    fn all_to_all(
        &self,
        call: &Call,
        counts: &[usize],
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        let (rank, width) = (self.rank, call.dtype.size());
        let table = Parts::new(counts, self.members.len());
        let part = |to| &send.bytes()[parts::bytes(table.in_sent(rank, to), width)];
        let mut round = MeshRound::begin(self, call)?;
        let announcement = announce(call);
        let to = |peer| {
            let outgoing = Outgoing::new(peer, call, part(peer)).announced(&announcement);
            outgoing.lent_in(LENT_BLOCK)
        };
        let mut sends: Vec<_> = self.peers().map(to).collect();
        round.agree(&mut sends)?;
        let len = |from| table.count(from, rank) * width;
        let mut targets = split_parts(recv.bytes_mut(), len, self.members.len());
        let (own, others) = take_own(&mut targets, rank);
        own.copy_from_slice(part(rank));
        let want = |(peer, part)| Incoming::new(peer, call, part);
        let mut wants: Vec<_> = self.peers().zip(others).map(want).collect();
        round.exchange(&mut sends, &mut wants)
    }

    fn barrier(&self, call: &Call) -> Result<()> {
        let mut round = MeshRound::begin(self, call)?;
        let announcement = announce(call);
        let mut sends = self.to_all(call, &announcement, &[]);
        round.agree(&mut sends)?;
        round.exchange(&mut sends, &mut [])
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let mut all = vec![0u64; 2 * self.members.len()];
        all[2 * self.rank..2 * self.rank + 2].copy_from_slice(&[color as u64, key as u64]);
        self.all_gather(call, SpanMut::of(&mut all))?;
        let same = |rank: &usize| all[2 * rank] == color as u64;
        let mut ranks: Vec<usize> = (0..self.members.len()).filter(same).collect();
        ranks.sort_by_key(|rank| (all[2 * rank + 1], *rank));
        let members: Vec<usize> = ranks.iter().map(|rank| self.members[*rank]).collect();
        let rank = ranks.iter().position(|p| *p == self.rank).unwrap_or(0);
        let group = format!("{}/{}.{color}", self.group, call.sequence);
        let engine = Self::connect(
            self.seat.clone(),
            self.options.clone(),
            self.shaper.clone(),
            group,
            rank,
            members,
        );
        Ok(Arc::new(engine.map_err(|error| self.fail(error, call))?))
    }

    fn fault(&self) -> Option<Error> {
        self.seat.fault().or_else(|| self.broken())
    }

    fn abort(&self, error: Error) {
        self.seat.abort(error);
    }

    fn leave(&self) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        // After a failure no rank has left: peers must get the failure, not `PeerLeft`.
        if self.fault().is_some() || self.left.swap(true, Ordering::Relaxed) {
            return;
        }
        let (kind, len, sequence, crc) = (Kind::Bye, 0, 0, 0);
        let bye = Header {
            kind,
            lent: false,
            len,
            sequence,
            crc,
        }
        .encode();
        for link in links.iter_mut().flatten() {
            // A peer that has ended is skipped; a slow one has `LEAVE_WAIT` to make room.
            let (mut sent, until) = (0, Instant::now() + LEAVE_WAIT);
            while let Ok(n) = link.send(&[IoSlice::new(&bye[sent..])]) {
                sent += n;
                if sent == bye.len() || Instant::now() > until {
                    break;
                }
                if n == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.leave();
    }
}
