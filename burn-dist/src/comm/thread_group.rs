//! A group of ranks that are threads of one process and read each other's memory.
//!
//! For each collective, every rank publishes a pointer to its buffer and waits until all ranks have
//! published and their calls agree. They may then read each other's buffers until all are done. The
//! rules of who may read what and when, and the errors of a rank that waits too long, are in this
//! file only.

use super::{Call, agree};
use crate::error::{Error, Result};
use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting rank checks for failures outside its own group.
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How long a rank spins before it sleeps: about as long as going to sleep and waking up takes, so
/// that waiting never costs more than twice the optimum.
const SPIN_FOR: Duration = Duration::from_micros(50);

/// What all groups of one world share.
#[derive(Debug)]
pub(super) struct WorldState {
    deadline: Duration,
    fault: Mutex<Option<Error>>,
    left: Mutex<Vec<bool>>,
}

/// One group of thread ranks.
#[derive(Debug)]
pub(super) struct ThreadGroup {
    world: Arc<WorldState>,
    members: Vec<usize>,
    state: Mutex<RoundState>,
    /// How many sync points all members have passed; written under the lock of `state`.
    phase: AtomicU64,
    phase_changed: Condvar,
}

/// The collective in progress.
#[derive(Debug)]
struct RoundState {
    /// What each member has published, from its arrival until all are done.
    published: Vec<Option<Published>>,
    /// Members that have arrived at the current sync point.
    arrived: usize,
    /// What all members may read, or why the calls do not agree; valid once all have arrived.
    agreed: Result<Arc<[Published]>>,
    /// Groups made by splits, until every member has taken its handle.
    children: HashMap<usize, (Arc<ThreadGroup>, usize)>,
}

/// What one rank publishes to the others: its call and its buffer.
#[derive(Debug, Clone)]
struct Published {
    call: Call,
    data: *const [u8],
}

// SAFETY: the pointer is read only through a `ThreadRound`, that is while the owner is inside the
// call that borrows the memory it points to.
#[allow(unsafe_code)]
unsafe impl Send for Published {}
// SAFETY: as above, and nobody writes through the pointer.
#[allow(unsafe_code)]
unsafe impl Sync for Published {}

impl WorldState {
    pub(super) fn new(size: usize, deadline: Duration) -> Self {
        Self {
            deadline,
            fault: Mutex::new(None),
            left: Mutex::new(vec![false; size]),
        }
    }

    /// The world's first failure, if there is one.
    pub(super) fn fault(&self) -> Option<Error> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.clone()
    }

    /// Records the failure unless there is one already, and returns the first one.
    fn fail(&self, error: Error) -> Error {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert(error).clone()
    }

    fn left(&self) -> MutexGuard<'_, Vec<bool>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadGroup {
    pub(super) fn new(world: Arc<WorldState>, members: Vec<usize>) -> Self {
        let state = RoundState {
            published: vec![None; members.len()],
            arrived: 0,
            agreed: Ok(Arc::default()),
            children: HashMap::new(),
        };
        Self {
            world,
            state: Mutex::new(state),
            phase: AtomicU64::new(0),
            phase_changed: Condvar::new(),
            members,
        }
    }

    /// The members, by their rank in the world.
    pub(super) fn members(&self) -> &[usize] {
        &self.members
    }

    pub(super) fn world(&self) -> &WorldState {
        &self.world
    }

    /// Makes pending and later collectives fail with `error`, unless an earlier failure exists.
    pub(super) fn fail(&self, error: Error) {
        self.world.fail(error);
        self.phase_changed.notify_all();
    }

    /// Records that member `rank` will issue no more collectives.
    pub(super) fn leave(&self, rank: usize) {
        self.world.left()[self.members[rank]] = true;
        self.phase_changed.notify_all();
    }

    /// Publishes `data` and returns when every member has published and the calls agree.
    ///
    /// Every member passes `sync_points - 1` [syncs](ThreadRound::sync) before it drops the round.
    pub(super) fn begin_round(
        &self,
        rank: usize,
        call: &Call,
        data: *const [u8],
        sync_points: usize,
    ) -> Result<ThreadRound<'_>> {
        if let Some(fault) = self.world.fault() {
            return Err(fault);
        }
        let since = Instant::now();
        let mut state = self.lock();
        if state.published[rank].is_some() {
            // It would replace the pointer of the first call, whose peers still read through it.
            let what = format!("{call} on rank {}", self.members[rank]);
            let expected = "one collective of a group at a time";
            return Err(Error::config(what, expected, "a second one"));
        }
        let call = call.clone();
        state.published[rank] = Some(Published { call, data });
        let phase = self.phase.load(Ordering::Relaxed);
        if self.arrive(&mut state) {
            state.agreed = self.check_agreement(&mut state.published);
            self.advance();
        } else {
            state = self.spin(state, phase);
        }
        while self.phase.load(Ordering::Relaxed) == phase {
            if let Some(error) = self.wait_error(rank, &state.published, since) {
                state.published[rank] = None;
                state.arrived -= 1;
                return Err(self.world.fail(error));
            }
            let woken = self.phase_changed.wait_timeout(state, POLL_EVERY);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let published = state.agreed.clone()?;
        drop(state);
        Ok(ThreadRound {
            group: self,
            published,
            sync_points: Cell::new(sync_points),
        })
    }

    /// The group of the members `ranks`, the same one for every member that asks with `color`
    /// in one round.
    pub(super) fn child(&self, color: usize, ranks: &[usize]) -> Arc<Self> {
        let new_child = || {
            let members = ranks.iter().map(|r| self.members[*r]).collect();
            (
                Arc::new(Self::new(self.world.clone(), members)),
                ranks.len(),
            )
        };
        let mut state = self.lock();
        let (group, untaken) = state.children.entry(color).or_insert_with(new_child);
        let group = group.clone();
        *untaken -= 1;
        if *untaken == 0 {
            state.children.remove(&color);
        }
        group
    }

    fn lock(&self) -> MutexGuard<'_, RoundState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one member as arrived; returns whether it is the last one.
    fn arrive(&self, state: &mut RoundState) -> bool {
        state.arrived += 1;
        let last = state.arrived == self.members.len();
        if last {
            state.arrived = 0;
        }
        last
    }

    /// Ends the current phase and wakes all members; the caller holds the lock.
    fn advance(&self) {
        self.phase.fetch_add(1, Ordering::Release);
        self.phase_changed.notify_all();
    }

    /// What all members have published, if their calls agree; called once all have arrived.
    fn check_agreement(&self, published: &mut [Option<Published>]) -> Result<Arc<[Published]>> {
        let all: Arc<[Published]> = published.iter().flatten().cloned().collect();
        let calls: Vec<&Call> = all.iter().map(|o| &o.call).collect();
        match agree(&calls, &self.members) {
            Ok(()) => Ok(all),
            Err(error) => {
                published.fill(None);
                Err(self.world.fail(error))
            }
        }
    }

    /// Spins until `phase` ends, for at most `SPIN_FOR`.
    fn spin<'a>(
        &'a self,
        state: MutexGuard<'a, RoundState>,
        phase: u64,
    ) -> MutexGuard<'a, RoundState> {
        drop(state);
        let since = Instant::now();
        while self.phase.load(Ordering::Acquire) == phase && since.elapsed() < SPIN_FOR {
            // Yields, because the awaited rank may need this core.
            std::thread::yield_now();
        }
        self.lock()
    }

    /// The error of a rank that waits for those which have not published, if it must give up.
    fn wait_error(
        &self,
        rank: usize,
        published: &[Option<Published>],
        since: Instant,
    ) -> Option<Error> {
        if let Some(fault) = self.world.fault() {
            return Some(fault);
        }
        let call = || {
            published[rank]
                .as_ref()
                .map_or_else(String::new, |o| o.call.to_string())
        };
        let rank = self.members[rank];
        let absent = self.members.iter().zip(published);
        let mut absent = absent.filter(|(_, offer)| offer.is_none()).map(|(m, _)| *m);
        if since.elapsed() >= self.world.deadline {
            return Some(Error::Timeout {
                rank,
                call: call(),
                waited: self.world.deadline,
                missing: absent.collect(),
            });
        }
        let left = self.world.left();
        let peer = absent.find(|m| left[*m])?;
        let call = call();
        Some(Error::PeerLeft { rank, peer, call })
    }

    /// Returns when all members are at this sync point. They are all inside the same collective,
    /// which never blocks on anything else, so this needs no deadline.
    fn sync(&self, end: bool) {
        let mut state = self.lock();
        let phase = self.phase.load(Ordering::Relaxed);
        if self.arrive(&mut state) {
            if end {
                state.published.fill(None);
            }
            self.advance();
            return;
        }
        state = self.spin(state, phase);
        while self.phase.load(Ordering::Relaxed) == phase {
            let woken = self.phase_changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One collective that all members have entered: peers' memory may be read until it is dropped,
/// and the drop returns only when all members have reached it.
pub(super) struct ThreadRound<'a> {
    group: &'a ThreadGroup,
    published: Arc<[Published]>,
    /// The sync points that are left for this rank, the drop included.
    sync_points: Cell<usize>,
}

impl ThreadRound<'_> {
    /// The part `range` of the buffer that `peer` has published.
    ///
    /// # Safety
    /// Nobody may write that part before the next sync or the end of the round.
    #[allow(unsafe_code)]
    pub(super) unsafe fn part(&self, peer: usize, range: Range<usize>) -> &[u8] {
        let data = self.published[peer].data;
        assert!(range.start <= range.end && range.end <= data.len());
        // SAFETY: the owner is inside the call that borrows this memory until every rank has
        // dropped its round, which this borrow cannot outlive; the range is inside of it, and the
        // caller promises that nobody writes it.
        unsafe { std::slice::from_raw_parts(data.cast::<u8>().add(range.start), range.len()) }
    }

    /// The part `range` of every rank's published buffer, in rank order.
    ///
    /// # Safety
    /// As [`part`](Self::part).
    #[allow(unsafe_code)]
    pub(super) unsafe fn parts(&self, range: Range<usize>) -> Vec<&[u8]> {
        (0..self.published.len())
            // SAFETY: the caller's promise is that of `part`.
            .map(|peer| unsafe { self.part(peer, range.clone()) })
            .collect()
    }

    /// Returns when all members are at this sync point.
    pub(super) fn sync(&self) {
        let left = self.sync_points.get() - 1;
        self.sync_points.set(left);
        self.group.sync(left == 0);
    }
}

impl Drop for ThreadRound<'_> {
    fn drop(&mut self) {
        // A rank that unwinds still passes the sync points at which its peers wait for it.
        while self.sync_points.get() > 0 {
            self.sync();
        }
    }
}
