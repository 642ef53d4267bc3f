//! Ranks as threads of one process.
//!
//! Every rank shows the others where its buffers are, all wait until everybody has come and agree
//! on what they do, and then each rank copies or adds what *it* needs straight from its peers'
//! memory: one copy per byte, no staging, and a reduction is spread over the ranks by itself.
//! A second meeting keeps the buffers alive until the last reader is done.

use super::{Call, Engine, Reduce, Span, SpanMut, agree, reduce::reduce};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting rank looks for failures outside its own group.
const GLANCE: Duration = Duration::from_millis(20);

/// Makes the engines of `size` thread ranks; `threads` is what each may use for reductions.
///
/// Hand one to each thread, in rank order. No collective waits longer than `deadline` for a peer.
pub fn ranks(size: usize, threads: usize, deadline: Duration) -> Vec<Local> {
    let world = Arc::new(Shared {
        deadline,
        fault: Mutex::new(None),
        left: Mutex::new(vec![false; size]),
    });
    let group = Arc::new(Group::new(world, (0..size).collect()));
    (0..size)
        .map(|rank| Local {
            rank,
            group: group.clone(),
            pool: (threads > 1)
                .then(|| {
                    rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .ok()
                })
                .flatten()
                .map(Arc::new),
        })
        .collect()
}

/// One thread's engine.
#[derive(Debug)]
pub struct Local {
    rank: usize,
    group: Arc<Group>,
    /// For large reductions; never the pool the rank itself runs in, whose only worker may be
    /// the one that waits for this collective.
    pool: Option<Arc<rayon::ThreadPool>>,
}

/// What all groups of one world share.
#[derive(Debug)]
struct Shared {
    deadline: Duration,
    fault: Mutex<Option<Error>>,
    left: Mutex<Vec<bool>>,
}

#[derive(Debug)]
struct Group {
    world: Arc<Shared>,
    members: Vec<usize>,
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

/// The collective in progress.
#[derive(Debug)]
struct Meeting {
    offers: Vec<Option<Offer>>,
    arrived: usize,
    /// What everybody may now read, once all have arrived.
    open: Option<Result<Arc<[Offer]>>>,
    /// Arrivals at, and number of, the synchronisation points inside the collective.
    paused: usize,
    pauses: u64,
    /// Groups born from splits, until every member has taken hers.
    born: HashMap<usize, (Arc<Group>, usize)>,
}

/// What one rank shows the others.
#[derive(Debug, Clone)]
struct Offer {
    call: Call,
    data: *const u8,
    len: usize,
}

// SAFETY: the pointer is read only between the arrival of all ranks and the last pause of the
// collective, while the owner is inside the call that borrows the memory it points to.
#[allow(unsafe_code)]
unsafe impl Send for Offer {}
// SAFETY: as above; nobody writes through an offer, and `all_reduce` and `broadcast` say where
// they write memory that was offered.
#[allow(unsafe_code)]
unsafe impl Sync for Offer {}

impl Group {
    fn new(world: Arc<Shared>, members: Vec<usize>) -> Self {
        let meeting = Meeting {
            offers: vec![None; members.len()],
            arrived: 0,
            open: None,
            paused: 0,
            pauses: 0,
            born: HashMap::new(),
        };
        Self {
            world,
            members,
            meeting: Mutex::new(meeting),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a rank that waits for `missing` members must give up, if it must.
    fn trouble(
        &self,
        rank: usize,
        call: &Call,
        missing: &[usize],
        since: Instant,
    ) -> Option<Error> {
        if let Some(fault) = self.world.fault() {
            return Some(fault);
        }
        let rank = self.members[rank];
        let left = self
            .world
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<usize> = missing.iter().map(|m| self.members[*m]).collect();
        if let Some(peer) = missing.iter().find(|m| left[**m]) {
            let (peer, call) = (*peer, call.to_string());
            return Some(Error::PeerLeft { rank, peer, call });
        }
        let waited = since.elapsed();
        (waited >= self.world.deadline).then(|| Error::Timeout {
            rank,
            call: call.to_string(),
            waited: self.world.deadline,
            missing,
        })
    }

    /// Shows `data` and returns when everybody has come and all agree.
    fn meet(&self, rank: usize, call: &Call, data: &[u8]) -> Result<Round<'_>> {
        if let Some(fault) = self.world.fault() {
            return Err(fault);
        }
        let since = Instant::now();
        let mut meeting = self.lock();
        meeting.offers[rank] = Some(Offer {
            call: call.clone(),
            data: data.as_ptr(),
            len: data.len(),
        });
        meeting.arrived += 1;
        if meeting.arrived == self.members.len() {
            let offers: Arc<[Offer]> = meeting.offers.iter_mut().filter_map(Option::take).collect();
            let calls: Vec<&Call> = offers.iter().map(|o| &o.call).collect();
            let verdict = agree(&calls, &self.members);
            if let Err(error) = &verdict {
                self.world.fail(error.clone());
            }
            meeting.open = Some(verdict.map(|()| offers));
            self.changed.notify_all();
        }
        let opened = loop {
            if let Some(opened) = &meeting.open {
                break opened.clone();
            }
            let missing: Vec<usize> = (0..self.members.len())
                .filter(|m| meeting.offers[*m].is_none())
                .collect();
            if let Some(error) = self.trouble(rank, call, &missing, since) {
                meeting.offers[rank] = None;
                meeting.arrived -= 1;
                drop(meeting);
                return Err(self.world.fail(error));
            }
            meeting = self
                .changed
                .wait_timeout(meeting, GLANCE)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        drop(meeting);
        Ok(Round {
            group: self,
            offers: opened?,
        })
    }

    /// Returns when all members are at this point. They are all inside the same collective, which
    /// never blocks on anything else, so this needs no deadline.
    fn pause(&self, last: bool) {
        let mut meeting = self.lock();
        let number = meeting.pauses;
        meeting.paused += 1;
        if meeting.paused == self.members.len() {
            meeting.paused = 0;
            meeting.pauses += 1;
            if last {
                meeting.arrived = 0;
                meeting.open = None;
            }
            self.changed.notify_all();
            return;
        }
        while meeting.pauses == number {
            meeting = self
                .changed
                .wait(meeting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn fault(&self) -> Option<Error> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes the failure unless there is one already, and returns the one that counts.
    fn fail(&self, error: Error) -> Error {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert(error).clone()
    }
}

/// A collective in which everybody takes part: peers' memory may be read until it is dropped,
/// and no rank gets past the drop before all ranks are there.
struct Round<'a> {
    group: &'a Group,
    offers: Arc<[Offer]>,
}

impl Round<'_> {
    /// What `peer` shows.
    fn data(&self, peer: usize) -> &[u8] {
        let offer = &self.offers[peer];
        // SAFETY: the owner is inside the call that borrows this memory until every rank has
        // dropped its round, which this borrow cannot outlive. Nobody writes the range that is
        // read: `all_reduce` and `broadcast` say why at the place.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(offer.data, offer.len)
        }
    }

    /// The part `range` of what every rank shows, in rank order.
    fn parts(&self, range: std::ops::Range<usize>) -> Vec<&[u8]> {
        (0..self.offers.len())
            .map(|peer| self.part(peer, range.clone()))
            .collect()
    }

    /// The part `range` of what `peer` shows, without touching the rest of it.
    fn part(&self, peer: usize, range: std::ops::Range<usize>) -> &[u8] {
        let offer = &self.offers[peer];
        assert!(range.start <= range.end && range.end <= offer.len);
        // SAFETY: as in `data`, and the range is inside the offer.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(offer.data.add(range.start), range.len())
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.group.pause(true);
    }
}

impl Engine for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn members(&self) -> &[usize] {
        &self.group.members
    }

    fn all_gather(&self, call: &Call, send: Span<'_>, mut recv: SpanMut<'_>) -> Result<()> {
        let round = self.group.meet(self.rank, call, send.bytes())?;
        let pieces = recv.bytes_mut().chunks_exact_mut(send.bytes().len().max(1));
        // Starting with its own piece, a rank reads another peer than its neighbours do.
        let mut pieces: Vec<_> = pieces.enumerate().collect();
        let first = self.rank.min(pieces.len());
        pieces.rotate_left(first);
        for (peer, piece) in pieces {
            piece.copy_from_slice(round.data(peer));
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
        let round = self.group.meet(self.rank, call, send.bytes())?;
        let chunk = recv.bytes().len();
        let mine = chunk * self.rank..chunk * (self.rank + 1);
        let pool = self.pool.as_deref();
        reduce(send.dtype(), op, &round.parts(mine), recv.bytes_mut(), pool);
        Ok(())
    }

    fn all_reduce(&self, call: &Call, op: Reduce, mut buffer: SpanMut<'_>) -> Result<()> {
        let (size, dtype) = (self.group.members.len(), buffer.dtype());
        let chunk = |rank: usize| {
            let at = |r: usize| split_at(call.len, size, r) * dtype.size();
            at(rank)..at(rank + 1)
        };
        // While the round lasts, this memory is touched only through this pointer: peers read
        // parts of it, so no reference may cover the whole.
        let memory = buffer.bytes_mut().as_mut_ptr();
        let round = self.group.meet(self.rank, call, buffer.bytes())?;
        let write = |range: std::ops::Range<usize>, from: &[u8]| {
            assert_eq!(range.len(), from.len());
            // SAFETY: `range` is a chunk of this rank's own buffer. Before the pause, chunk `r`
            // of every buffer is read by rank `r` alone, which is the one that writes it here;
            // after the pause, peers read only the writer's own chunk, and it writes the others.
            #[allow(unsafe_code)]
            unsafe {
                std::ptr::copy_nonoverlapping(from.as_ptr(), memory.add(range.start), from.len());
            }
        };
        let mine = chunk(self.rank);
        // Words, so that the bytes are aligned for every element type.
        let mut sum = vec![0u64; mine.len().div_ceil(8)];
        let sum = &mut bytemuck::cast_slice_mut(&mut sum)[..mine.len()];
        reduce(
            dtype,
            op,
            &round.parts(mine.clone()),
            sum,
            self.pool.as_deref(),
        );
        write(mine, sum);
        self.group.pause(false);
        for peer in (0..size).filter(|peer| *peer != self.rank) {
            write(chunk(peer), round.part(peer, chunk(peer)));
        }
        Ok(())
    }

    fn broadcast(&self, call: &Call, root: usize, mut buffer: SpanMut<'_>) -> Result<()> {
        let round = self.group.meet(self.rank, call, buffer.bytes())?;
        // Only the root's memory is read, and the root does not write.
        if self.rank != root {
            buffer.bytes_mut().copy_from_slice(round.data(root));
        }
        Ok(())
    }

    fn barrier(&self, call: &Call) -> Result<()> {
        self.group.meet(self.rank, call, &[]).map(drop)
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let mine = [color, key, self.rank];
        let round = self
            .group
            .meet(self.rank, call, bytemuck::cast_slice(&mine))?;
        let mut members: Vec<[usize; 3]> = (0..self.group.members.len())
            .map(|peer| bytemuck::pod_read_unaligned::<[usize; 3]>(round.data(peer)))
            .filter(|[other, ..]| *other == color)
            .collect();
        members.sort_by_key(|[_, key, rank]| (*key, *rank));
        let ranks: Vec<usize> = members.iter().map(|[.., rank]| *rank).collect();
        let mut meeting = self.group.lock();
        let world_ranks = ranks.iter().map(|r| self.group.members[*r]).collect();
        let newborn = || {
            let group = Group::new(self.group.world.clone(), world_ranks);
            (Arc::new(group), ranks.len())
        };
        let (group, untaken) = meeting.born.entry(color).or_insert_with(newborn);
        let group = group.clone();
        *untaken -= 1;
        if *untaken == 0 {
            meeting.born.remove(&color);
        }
        drop(meeting);
        Ok(Arc::new(Local {
            rank: ranks.iter().position(|r| *r == self.rank).unwrap_or(0),
            group,
            pool: self.pool.clone(),
        }))
    }

    fn abort(&self, error: Error) {
        self.group.world.fail(error);
        self.group.changed.notify_all();
    }

    fn leave(&self) {
        let rank = self.group.members[self.rank];
        let mut left = self
            .group
            .world
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        left[rank] = true;
        drop(left);
        self.group.changed.notify_all();
    }
}

/// Where rank `r`'s chunk starts when `len` elements are cut as evenly as whole elements allow.
fn split_at(len: usize, ranks: usize, r: usize) -> usize {
    len / ranks * r + (len % ranks).min(r)
}
