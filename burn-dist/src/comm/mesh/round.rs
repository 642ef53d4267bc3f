//! One collective in progress over all links of a group.

use super::super::{Call, Engine, agree};
use super::Mesh;
use super::frame::{self, HEADER, announce};
use super::link::Link;
use super::transfer::{Awaited, Hearing, Incoming, Outgoing, Trouble};
use crate::error::{Error, Result};
use rustix::event::{PollFd, Timespec, poll};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a sleeping rank looks whether the world is still whole.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a rank that finds a peer gone waits for the reason.
const DOUBT: Duration = Duration::from_millis(500);
/// How long a rank stays awake before it sleeps: about as long as being woken up takes.
const AWAKE: Duration = Duration::from_micros(50);

/// The links of a group while they serve one collective.
#[derive(Debug)]
pub(super) struct Round<'a> {
    mesh: &'a Mesh,
    call: &'a Call,
    links: MutexGuard<'a, Vec<Option<Link>>>,
    since: Instant,
    /// Since when nothing has moved.
    idle: Option<Instant>,
}

impl<'a> Round<'a> {
    /// Takes the links; fails at once if the group is broken, or this rank has left it.
    pub(super) fn begin(mesh: &'a Mesh, call: &'a Call) -> Result<Self> {
        let links = mesh.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = mesh.fault() {
            return Err(mesh.dressed(error, call));
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
    /// `sends` holds one transfer for each peer, with the announcement; data behind it is on its
    /// way when this returns, as far as there was room.
    pub(super) fn agree(&mut self, sends: &mut [Outgoing<'_>]) -> Result<()> {
        let mut heard: Vec<Hearing> = self.mesh.peers().map(Hearing::new).collect();
        self.advance(sends, &mut heard, &mut [], false)?;
        let mut calls: Vec<&Call> = heard.iter().filter_map(|h| h.call.as_ref()).collect();
        if calls.iter().all(|call| *call == self.call) {
            return Ok(());
        }
        // As the others see it: what is too long for the wire is shortened there.
        let own = frame::decode(&announce(self.call)[HEADER..]);
        let own = own.unwrap_or_else(|_| self.call.clone());
        calls.insert(self.mesh.rank, &own);
        agree(&calls, &self.mesh.members).map_err(|error| self.fail(error))
    }

    /// Moves data until all of `wants` is here and all of `sends` has gone.
    pub(super) fn exchange(
        &mut self,
        sends: &mut [Outgoing<'_>],
        wants: &mut [Incoming<'_>],
    ) -> Result<()> {
        self.advance(sends, wants, &mut [], true)
    }

    /// The same, and takes in what is there of `result` meanwhile, so that its sender is not stuck.
    pub(super) fn pass_on(
        &mut self,
        sends: &mut [Outgoing<'_>],
        wants: &mut [Incoming<'_>],
        result: &mut [Incoming<'_>],
    ) -> Result<()> {
        self.advance(sends, wants, result, true)
    }

    /// Moves data until all of `wants` is here, and sends as much as there is room for meanwhile.
    pub(super) fn receive(
        &mut self,
        sends: &mut [Outgoing<'_>],
        wants: &mut [Incoming<'_>],
    ) -> Result<()> {
        self.advance(sends, wants, &mut [], false)
    }

    fn advance<W: Awaited>(
        &mut self,
        sends: &mut [Outgoing<'_>],
        wants: &mut [W],
        beside: &mut [Incoming<'_>],
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
            for some in beside.iter_mut().filter(|s| !s.is_done()) {
                moved |= self.with(some.peer(), |link| some.pull(link))?;
            }
            let sent = !all_sent || sends.iter().all(Outgoing::is_done);
            if sent && wants.iter().all(W::is_done) {
                return Ok(());
            }
            match moved {
                true => self.idle = None,
                false => self.rest(sends, wants, beside)?,
            }
        }
    }

    /// Does something with the link to a peer; trouble there is the end of the group.
    fn with<T>(
        &mut self,
        peer: usize,
        f: impl FnOnce(&mut Link) -> std::result::Result<T, Trouble>,
    ) -> Result<T> {
        let Some(link) = &mut self.links[peer] else {
            return Err(Error::config(
                "a link",
                "a peer",
                format!("rank {peer} itself"),
            ));
        };
        f(link).map_err(|trouble| self.trouble(peer, trouble))
    }

    /// Waits a little for something to move.
    fn rest<W: Awaited>(
        &mut self,
        sends: &[Outgoing<'_>],
        wants: &[W],
        beside: &[Incoming<'_>],
    ) -> Result<()> {
        let idle = *self.idle.get_or_insert_with(Instant::now);
        if idle.elapsed() < AWAKE {
            // Not a bare spin: the peer it waits for may need this very core.
            std::thread::yield_now();
            return Ok(());
        }
        if let Some(error) = self.mesh.seat.fault() {
            return Err(self.fail(error));
        }
        let deadline = self.mesh.options.deadline;
        if self.since.elapsed() >= deadline {
            return Err(self.late(sends, wants));
        }
        let receiving = |peer| {
            let wanted = wants.iter().any(|w| w.peer() == peer && !w.is_done());
            wanted || beside.iter().any(|w| w.peer() == peer && !w.is_done())
        };
        let sending = |peer| sends.iter().any(|s| s.peer == peer && !s.is_done());
        let mut waiting: Vec<(usize, bool, bool)> = Vec::with_capacity(self.links.len());
        for peer in self.mesh.peers() {
            let (receiving, sending) = (receiving(peer), sending(peer));
            if receiving || sending {
                if !self.with(peer, |link| Ok(link.doze(receiving, sending)?))? {
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
        let glance = Timespec::try_from(GLANCE).ok();
        // An interrupted sleep is only a shorter one.
        let _ = poll(&mut polled, glance.as_ref());
        drop(polled);
        for (peer, ..) in waiting {
            self.with(peer, |link| {
                link.woken();
                Ok(())
            })?;
        }
        Ok(())
    }

    fn trouble(&self, peer: usize, trouble: Trouble) -> Error {
        let (rank, peer) = (self.mesh.members[self.mesh.rank], self.mesh.members[peer]);
        let call = self.call.to_string();
        let error = match trouble {
            Trouble::Broken(e) => {
                let why = format!("its connection to rank {rank} broke in {call}: {e}");
                self.mesh.seat.suspect(peer, why)
            }
            Trouble::Damaged(problem) => Error::Corrupt {
                rank,
                peer,
                call,
                problem,
            },
            // One that left because it failed is about to say so.
            Trouble::Left => {
                let fault = self.mesh.seat.fault_within(DOUBT);
                fault.unwrap_or(Error::PeerLeft { rank, peer, call })
            }
        };
        self.fail(error)
    }

    fn late<W: Awaited>(&self, sends: &[Outgoing<'_>], wants: &[W]) -> Error {
        let silent = wants.iter().filter(|w| !w.is_done()).map(Awaited::peer);
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

    /// Breaks the world with `error`, and returns what this rank is to report.
    fn fail(&self, error: Error) -> Error {
        self.mesh.fail(error, self.call)
    }
}
