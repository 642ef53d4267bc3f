//! One collective in progress over all links of a group.

use super::super::{Call, Engine, agree};
use super::Mesh;
use super::frame::{self, HEADER, announce};
use super::link::{Link, LinkError, Sending};
use super::transfer::{Incoming, Outgoing, PeerCall, Receive};
use crate::error::{Error, Result};
use rustix::event::{PollFd, Timespec, poll};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a sleeping rank checks whether the world has failed.
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How long a rank whose peer has left waits for the reason.
const BLAME_WAIT: Duration = Duration::from_millis(500);
/// How long a rank spins before it sleeps: about as long as waking up takes.
const SPIN_FOR: Duration = Duration::from_micros(50);

/// The links of a group while they serve one collective.
#[derive(Debug)]
pub(super) struct MeshRound<'a> {
    mesh: &'a Mesh,
    call: &'a Call,
    links: MutexGuard<'a, Vec<Option<Link>>>,
    since: Instant,
    /// Since when no byte has moved.
    idle: Option<Instant>,
}

impl<'a> MeshRound<'a> {
    /// Locks the links; fails at once if the group is broken, or this rank has left it.
    pub(super) fn begin(mesh: &'a Mesh, call: &'a Call) -> Result<Self> {
        let links = mesh.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = mesh.fault() {
            return Err(mesh.with_context(error, call));
        }
        if mesh.left.load(Ordering::Relaxed) {
            let expected = "a rank that has not left";
            return Err(Error::config(call.to_string(), expected, "one that has"));
        }
        Ok(Self {
            mesh,
            call,
            links,
            since: Instant::now(),
            idle: None,
        })
    }

    /// Announces the collective, returns when all peers have announced the same one.
    ///
    /// `sends` holds one transfer for each peer, with the announcement; data after it is sent meanwhile, as
    /// far as there is room.
    pub(super) fn agree(&mut self, sends: &mut [Outgoing<'_>]) -> Result<()> {
        let mut announced: Vec<PeerCall> = self.mesh.peers().map(PeerCall::new).collect();
        self.advance(sends, &mut announced, &mut [], false)?;
        let mut calls: Vec<&Call> = announced.iter().filter_map(|h| h.call.as_ref()).collect();
        if calls.iter().all(|call| *call == self.call) {
            return Ok(());
        }
        // As the peers decode it: texts that are too long for a frame are shortened.
        let own = frame::decode(&announce(self.call)[HEADER..]);
        let own = own.unwrap_or_else(|_| self.call.clone());
        calls.insert(self.mesh.rank, &own);
        agree(&calls, &self.mesh.members).map_err(|error| self.fail(error))
    }

    /// Moves data until all of `wants` is received and all of `sends` is sent.
    pub(super) fn exchange(
        &mut self,
        sends: &mut [Outgoing<'_>],
        wants: &mut [Incoming<'_>],
    ) -> Result<()> {
        self.advance(sends, wants, &mut [], true)
    }

    /// The same, and receives what is available of `result` meanwhile, so that its sender is not blocked.
    pub(super) fn exchange_and_collect(
        &mut self,
        sends: &mut [Outgoing<'_>],
        wants: &mut [Incoming<'_>],
        result: &mut [Incoming<'_>],
    ) -> Result<()> {
        self.advance(sends, wants, result, true)
    }

    /// Moves data until all of `wants` is received, and sends as much as there is room for meanwhile.
    pub(super) fn receive(
        &mut self,
        sends: &mut [Outgoing<'_>],
        wants: &mut [Incoming<'_>],
    ) -> Result<()> {
        self.advance(sends, wants, &mut [], false)
    }

    fn advance<W: Receive>(
        &mut self,
        sends: &mut [Outgoing<'_>],
        wants: &mut [W],
        alongside: &mut [Incoming<'_>],
        all_sent: bool,
    ) -> Result<()> {
        loop {
            let mut moved = false;
            for send in sends.iter_mut().filter(|s| !s.is_done()) {
                moved |= self.with(send.peer, |link| send.push(link))?;
            }
            for want in wants.iter_mut().filter(|w| !w.is_done()) {
                moved |= self.with(want.peer(), |link| want.pull(link))?;
            }
            for some in alongside.iter_mut().filter(|s| !s.is_done()) {
                moved |= self.with(some.peer(), |link| some.pull(link))?;
            }
            let sent = !all_sent || sends.iter().all(Outgoing::is_done);
            if sent && wants.iter().all(W::is_done) {
                return Ok(());
            }
            if moved {
                self.idle = None;
            } else {
                self.wait_briefly(sends, wants, alongside)?;
            }
        }
    }

    /// Runs `f` on the link to a peer; an error there breaks the group.
    fn with<T>(
        &mut self,
        peer: usize,
        f: impl FnOnce(&mut Link) -> std::result::Result<T, LinkError>,
    ) -> Result<T> {
        let Some(link) = &mut self.links[peer] else {
            return Err(Error::config(
                "a link",
                "a peer",
                format!("rank {peer} itself"),
            ));
        };
        f(link).map_err(|error| self.link_error(peer, error))
    }

    /// Spins at first, then sleeps until a socket is ready or `POLL_EVERY` has passed.
    fn wait_briefly<W: Receive>(
        &mut self,
        sends: &[Outgoing<'_>],
        wants: &[W],
        alongside: &[Incoming<'_>],
    ) -> Result<()> {
        let idle = *self.idle.get_or_insert_with(Instant::now);
        if idle.elapsed() < SPIN_FOR {
            // Yields, because the awaited peer may need this core.
            std::thread::yield_now();
            return Ok(());
        }
        if let Some(error) = self.mesh.seat.fault() {
            return Err(self.fail(error));
        }
        let deadline = self.mesh.options.deadline;
        if self.since.elapsed() >= deadline {
            return Err(self.timeout_error(sends, wants));
        }
        let receiving = |peer| {
            let wanted = wants.iter().any(|w| w.peer() == peer && !w.is_done());
            wanted || alongside.iter().any(|w| w.peer() == peer && !w.is_done())
        };
        let sending = |peer| {
            let send = sends.iter().find(|s| s.peer == peer);
            send.map_or(Sending::Nothing, Outgoing::waits_for)
        };
        let mut waiting: Vec<(usize, bool, Sending)> = Vec::with_capacity(self.links.len());
        for peer in self.mesh.peers() {
            let (receiving, sending) = (receiving(peer), sending(peer));
            if receiving || sending != Sending::Nothing {
                if !self.with(peer, |link| Ok(link.prepare_sleep(receiving, sending)?))? {
                    return Ok(());
                }
                waiting.push((peer, receiving, sending));
            }
        }
        let links = &self.links;
        let mut polled: Vec<PollFd<'_>> = waiting
            .iter()
            .filter_map(|(peer, r, s)| links[*peer].as_ref().map(|link| link.poll(*r, *s)))
            .collect();
        let timeout = Timespec::try_from(POLL_EVERY).ok();
        // An interrupted poll only ends early.
        let _ = poll(&mut polled, timeout.as_ref());
        drop(polled);
        for (peer, ..) in waiting {
            self.with(peer, |link| {
                link.drain_wakeups();
                Ok(())
            })?;
        }
        Ok(())
    }

    fn link_error(&self, peer: usize, error: LinkError) -> Error {
        let (rank, peer) = (self.mesh.members[self.mesh.rank], self.mesh.members[peer]);
        let call = self.call.to_string();
        let error = match error {
            LinkError::Broken(e) => {
                let why = format!("its connection to rank {rank} broke in {call}: {e}");
                self.mesh.seat.suspect(peer, why)
            }
            LinkError::Damaged(problem) => Error::Corrupt {
                rank,
                peer,
                call,
                problem,
            },
            // A rank that leaves because it failed reports that within this time.
            LinkError::Left => {
                let fault = self.mesh.seat.fault_within(BLAME_WAIT);
                fault.unwrap_or(Error::PeerLeft { rank, peer, call })
            }
        };
        self.fail(error)
    }

    fn timeout_error<W: Receive>(&self, sends: &[Outgoing<'_>], wants: &[W]) -> Error {
        let silent = wants.iter().filter(|w| !w.is_done()).map(Receive::peer);
        let stuck = sends.iter().filter(|s| !s.is_done()).map(|s| s.peer);
        let mut missing: Vec<usize> = silent.chain(stuck).map(|p| self.mesh.members[p]).collect();
        missing.sort_unstable();
        missing.dedup();
        self.fail(Error::Timeout {
            rank: self.mesh.members[self.mesh.rank],
            call: self.call.to_string(),
            waited: self.mesh.options.deadline,
            missing,
        })
    }

    /// Breaks the world with `error`; returns the error that this rank reports.
    fn fail(&self, error: Error) -> Error {
        self.mesh.fail(error, self.call)
    }
}

impl Drop for MeshRound<'_> {
    /// After an error the caller may change its buffers while peers still read them.
    fn drop(&mut self) {
        for link in self.links.iter().flatten() {
            link.revoke();
        }
    }
}
