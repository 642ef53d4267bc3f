//! Where thread ranks meet.
//!
//! Every rank shows the others a piece of its memory, all wait until everybody has come and agree
//! on what they do, and then they may read each other's memory until all are done. What may be
//! read when, and what a rank does that waits in vain, is decided here and nowhere else.

use super::{Call, agree};
use crate::error::{Error, Result};
use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting rank looks for failures outside its own group.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a rank stays awake before it sleeps: about as long as falling asleep and being woken
/// up takes, so that waiting never costs more than twice the optimum.
const AWAKE: Duration = Duration::from_micros(50);

/// What all groups of one world share.
#[derive(Debug)]
pub(super) struct Fate {
    deadline: Duration,
    fault: Mutex<Option<Error>>,
    left: Mutex<Vec<bool>>,
}

/// Ranks that meet.
#[derive(Debug)]
pub(super) struct Group {
    fate: Arc<Fate>,
    members: Vec<usize>,
    meeting: Mutex<Meeting>,
    /// How often all members have been at one point; written under the lock of `meeting`.
    step: AtomicU64,
    stepped: Condvar,
}

/// The collective in progress.
#[derive(Debug)]
struct Meeting {
    /// What each member shows, from its arrival until all are done.
    offers: Vec<Option<Offer>>,
    /// Members at the current point.
    here: usize,
    /// What everybody may read, or why nobody may; valid once all have arrived.
    open: Result<Arc<[Offer]>>,
    /// Groups born from splits, until every member has taken hers.
    born: HashMap<usize, (Arc<Group>, usize)>,
}

/// What one rank shows the others.
#[derive(Debug, Clone)]
struct Offer {
    call: Call,
    data: *const [u8],
}

// SAFETY: the pointer is read only through a `Round`, that is while the owner is inside the call
// that borrows the memory it points to.
#[allow(unsafe_code)]
unsafe impl Send for Offer {}
// SAFETY: as above, and nobody writes through an offer.
#[allow(unsafe_code)]
unsafe impl Sync for Offer {}

impl Fate {
    pub(super) fn new(size: usize, deadline: Duration) -> Self {
        Self {
            deadline,
            fault: Mutex::new(None),
            left: Mutex::new(vec![false; size]),
        }
    }

    /// Why the world is of no further use, if it is not.
    pub(super) fn fault(&self) -> Option<Error> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.clone()
    }

    /// Notes the failure unless there is one already, and returns the one that counts.
    fn fail(&self, error: Error) -> Error {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert(error).clone()
    }

    fn left(&self) -> MutexGuard<'_, Vec<bool>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    pub(super) fn new(fate: Arc<Fate>, members: Vec<usize>) -> Self {
        let meeting = Meeting {
            offers: vec![None; members.len()],
            here: 0,
            open: Ok(Arc::default()),
            born: HashMap::new(),
        };
        Self {
            fate,
            meeting: Mutex::new(meeting),
            step: AtomicU64::new(0),
            stepped: Condvar::new(),
            members,
        }
    }

    /// The members, by their rank in the world.
    pub(super) fn members(&self) -> &[usize] {
        &self.members
    }

    pub(super) fn fate(&self) -> &Fate {
        &self.fate
    }

    /// Makes waiting and coming members fail with `error`, unless they fail with another already.
    pub(super) fn fail(&self, error: Error) {
        self.fate.fail(error);
        self.stepped.notify_all();
    }

    /// Notes that member `rank` will not come again.
    pub(super) fn leave(&self, rank: usize) {
        self.fate.left()[self.members[rank]] = true;
        self.stepped.notify_all();
    }

    /// Shows `data` and returns when everybody has come and all agree.
    ///
    /// Every member passes `points - 1` [pauses](Round::pause) before it drops the round.
    pub(super) fn meet(
        &self,
        rank: usize,
        call: &Call,
        data: *const [u8],
        points: usize,
    ) -> Result<Round<'_>> {
        if let Some(fault) = self.fate.fault() {
            return Err(fault);
        }
        let since = Instant::now();
        let mut meeting = self.lock();
        if meeting.offers[rank].is_some() {
            // Its memory would be forgotten while peers read it.
            let what = format!("{call} on rank {}", self.members[rank]);
            let expected = "one collective of a group at a time";
            return Err(Error::config(what, expected, "a second one"));
        }
        let call = call.clone();
        meeting.offers[rank] = Some(Offer { call, data });
        let step = self.step.load(Ordering::Relaxed);
        if self.is_last(&mut meeting) {
            meeting.open = self.open(&mut meeting.offers);
            self.advance();
        } else {
            meeting = self.linger(meeting, step);
        }
        while self.step.load(Ordering::Relaxed) == step {
            if let Some(error) = self.trouble(rank, &meeting.offers, since) {
                meeting.offers[rank] = None;
                meeting.here -= 1;
                return Err(self.fate.fail(error));
            }
            let woken = self.stepped.wait_timeout(meeting, GLANCE);
            meeting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let offers = meeting.open.clone()?;
        drop(meeting);
        Ok(Round {
            group: self,
            offers,
            points: Cell::new(points),
        })
    }

    /// The group of the members `ranks`, the same one for every member that asks with `color`
    /// in one round.
    pub(super) fn child(&self, color: usize, ranks: &[usize]) -> Arc<Self> {
        let newborn = || {
            let members = ranks.iter().map(|r| self.members[*r]).collect();
            (Arc::new(Self::new(self.fate.clone(), members)), ranks.len())
        };
        let mut meeting = self.lock();
        let (group, untaken) = meeting.born.entry(color).or_insert_with(newborn);
        let group = group.clone();
        *untaken -= 1;
        if *untaken == 0 {
            meeting.born.remove(&color);
        }
        group
    }

    fn lock(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a member in, and says whether it is the last one.
    fn is_last(&self, meeting: &mut Meeting) -> bool {
        meeting.here += 1;
        let last = meeting.here == self.members.len();
        if last {
            meeting.here = 0;
        }
        last
    }

    /// Lets everybody go on; the caller holds the lock.
    fn advance(&self) {
        self.step.fetch_add(1, Ordering::Release);
        self.stepped.notify_all();
    }

    /// What everybody may read, now that all have come.
    fn open(&self, offers: &mut [Option<Offer>]) -> Result<Arc<[Offer]>> {
        let all: Arc<[Offer]> = offers.iter().flatten().cloned().collect();
        let calls: Vec<&Call> = all.iter().map(|o| &o.call).collect();
        match agree(&calls, &self.members) {
            Ok(()) => Ok(all),
            Err(error) => {
                offers.fill(None);
                Err(self.fate.fail(error))
            }
        }
    }

    /// Waits without sleeping for the end of `step`, as long as that may be worth it.
    fn linger<'a>(
        &'a self,
        meeting: MutexGuard<'a, Meeting>,
        step: u64,
    ) -> MutexGuard<'a, Meeting> {
        drop(meeting);
        let since = Instant::now();
        while self.step.load(Ordering::Acquire) == step && since.elapsed() < AWAKE {
            // Not a bare spin: the rank it waits for may need this very core.
            std::thread::yield_now();
        }
        self.lock()
    }

    /// Why a rank that waits for those without an offer must give up, if it must.
    fn trouble(&self, rank: usize, offers: &[Option<Offer>], since: Instant) -> Option<Error> {
        if let Some(fault) = self.fate.fault() {
            return Some(fault);
        }
        let call = || {
            offers[rank]
                .as_ref()
                .map_or_else(String::new, |o| o.call.to_string())
        };
        let rank = self.members[rank];
        let absent = self.members.iter().zip(offers);
        let mut absent = absent.filter(|(_, offer)| offer.is_none()).map(|(m, _)| *m);
        if since.elapsed() >= self.fate.deadline {
            return Some(Error::Timeout {
                rank,
                call: call(),
                waited: self.fate.deadline,
                missing: absent.collect(),
            });
        }
        let left = self.fate.left();
        let peer = absent.find(|m| left[*m])?;
        let call = call();
        Some(Error::PeerLeft { rank, peer, call })
    }

    /// Returns when all members are at this point. They are all inside the same collective, which
    /// never blocks on anything else, so this needs no deadline.
    fn pause(&self, end: bool) {
        let mut meeting = self.lock();
        let step = self.step.load(Ordering::Relaxed);
        if self.is_last(&mut meeting) {
            if end {
                meeting.offers.fill(None);
            }
            self.advance();
            return;
        }
        meeting = self.linger(meeting, step);
        while self.step.load(Ordering::Relaxed) == step {
            let woken = self.stepped.wait(meeting);
            meeting = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A collective in which everybody takes part: peers' memory may be read until it is dropped,
/// and no rank gets past the drop before all ranks are there.
pub(super) struct Round<'a> {
    group: &'a Group,
    offers: Arc<[Offer]>,
    /// The points, this round's drop included, where this rank has yet to wait for all.
    points: Cell<usize>,
}

impl Round<'_> {
    /// The part `range` of what `peer` shows.
    ///
    /// # Safety
    /// Nobody may write that part before the next pause or the end of the round.
    #[allow(unsafe_code)]
    pub(super) unsafe fn part(&self, peer: usize, range: Range<usize>) -> &[u8] {
        let data = self.offers[peer].data;
        assert!(range.start <= range.end && range.end <= data.len());
        // SAFETY: the owner is inside the call that borrows this memory until every rank has
        // dropped its round, which this borrow cannot outlive; the range is inside of it, and the
        // caller answers for the writers.
        unsafe { std::slice::from_raw_parts(data.cast::<u8>().add(range.start), range.len()) }
    }

    /// The part `range` of what every rank shows, in rank order.
    ///
    /// # Safety
    /// As [`part`](Self::part).
    #[allow(unsafe_code)]
    pub(super) unsafe fn parts(&self, range: Range<usize>) -> Vec<&[u8]> {
        (0..self.offers.len())
            // SAFETY: the caller's promise is that of `part`.
            .map(|peer| unsafe { self.part(peer, range.clone()) })
            .collect()
    }

    /// Returns when all ranks are at this point.
    pub(super) fn pause(&self) {
        let left = self.points.get() - 1;
        self.points.set(left);
        self.group.pause(left == 0);
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        // A rank that unwinds still meets its peers wherever they wait for it.
        while self.points.get() > 0 {
            self.pause();
        }
    }
}
