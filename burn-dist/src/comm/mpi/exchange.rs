//! How the ranks of a group exchange bytes: first what they are about to do, then data in rounds.
//!
//! Whatever a rank waits for, it also looks for news that end the wait, and for the deadline.

use super::port::Port;
use super::traffic::{Backoff, MOST, Parcel, View};
use super::{Mpi, text};
use crate::comm::{Call, Reduce, agree, reduce::reduce};
use crate::error::{Error, Result};
use std::ops::Range;
use std::time::Instant;

/// Blocks of all peers together that one round may bring.
const ROUND: usize = 8 << 20;
/// Smallest block, however many peers there are.
const LEAST: usize = 16 << 10;
/// Rounds that are sent before they are waited for.
const AHEAD: usize = 1;

/// What the peers sent, by their rank in the group.
pub(super) type Parcels = Vec<Option<Parcel>>;

impl Mpi {
    pub(super) fn port(&self) -> &Port {
        &self.group.port
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    /// The other ranks, each rank beginning behind itself.
    fn others(&self) -> impl Iterator<Item = usize> {
        (1..self.size()).map(|step| (self.rank + step) % self.size())
    }

    fn send(&self, peer: usize, parts: &[&[u8]]) -> Result<()> {
        let sent = self.port().send(self.members[peer], self.group.id, parts);
        sent.map_err(|error| self.fail(error))
    }

    pub(super) fn fail(&self, error: Error) -> Error {
        self.port().fail(self.world, error)
    }

    /// Waits for one message of each of `peers`.
    fn collect(&self, call: &Call, peers: impl Iterator<Item = usize>) -> Result<Parcels> {
        let mut parcels: Parcels = (0..self.size()).map(|_| None).collect();
        let mut missing: Vec<usize> = peers.collect();
        self.until(call, |view| {
            missing.retain(|peer| {
                parcels[*peer] = view.take(self.group.id, self.members[*peer]);
                parcels[*peer].is_none()
            });
            missing.clone()
        })?;
        Ok(parcels)
    }

    /// Waits until what this rank sent has gone: a rank that computes moves no messages.
    ///
    /// All peers came to this collective, so one that has left since has what it needed, whether
    /// MPI has told the sender yet or not.
    fn settle(&self, call: &Call) -> Result<()> {
        let place = |rank: &usize| self.members.iter().position(|m| m == rank);
        self.until(call, |view| {
            let mut sending = view.sending(self.group.id);
            sending.retain(|rank| !view.has_left(self.world, *rank));
            sending.iter().filter_map(place).collect()
        })
    }

    /// Looks until `f` misses nobody, or there is reason to give up.
    fn until(&self, call: &Call, mut f: impl FnMut(&mut View<'_>) -> Vec<usize>) -> Result<()> {
        let since = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let trouble = self.port().look(|view| {
                backoff.moved(view.moved);
                let missing = f(view);
                if missing.is_empty() {
                    return Some(Ok(()));
                }
                let missing: Vec<usize> = missing.iter().map(|p| self.members[*p]).collect();
                self.trouble(call, view, missing, since).map(Err)
            });
            match trouble.map_err(|error| self.fail(error))? {
                Some(end) => return end.map_err(|error| self.fail(error)),
                None => backoff.wait(),
            }
        }
    }

    /// Why a rank that waits for `missing` must give up, if it must.
    fn trouble(
        &self,
        call: &Call,
        view: &View<'_>,
        mut missing: Vec<usize>,
        since: Instant,
    ) -> Option<Error> {
        if let Some(fault) = view.fault(self.world) {
            return Some(fault);
        }
        let (rank, call) = (self.members[self.rank], || call.to_string());
        if since.elapsed() >= self.deadline {
            missing.sort_unstable();
            return Some(Error::Timeout {
                rank,
                call: call(),
                waited: self.deadline,
                missing,
            });
        }
        let peer = missing
            .into_iter()
            .find(|m| view.has_left(self.world, *m))?;
        let call = call();
        Some(Error::PeerLeft { rank, peer, call })
    }

    /// Tells every peer the call, with the data that `give` adds for it, and compares.
    ///
    /// What is returned is the peers' data for this rank.
    pub(super) fn meet<'a>(
        &self,
        call: &Call,
        give: impl Fn(usize) -> &'a [u8],
    ) -> Result<Parcels> {
        let news = self.port().look(|view| view.fault(self.world));
        if let Some(fault) = news.map_err(|error| self.fail(error))? {
            return Err(fault);
        }
        let ours = text::digest(call);
        for peer in self.others() {
            self.send(peer, &[&ours, give(peer)])?;
        }
        let parcels = self.collect(call, self.others())?;
        self.settle(call)?;
        if parcels
            .iter()
            .flatten()
            .all(|p| p.data().starts_with(&ours))
        {
            return Ok(parcels);
        }
        Err(self.fail(self.differ(call)?))
    }

    /// What is different, now that every rank has seen that something is.
    fn differ(&self, call: &Call) -> Result<Error> {
        let mut ours = call.clone();
        ours.label.unit = text::cut(&call.label.unit);
        ours.label.detail = text::cut(&call.label.detail);
        let text = text::of(&ours);
        for peer in self.others() {
            self.send(peer, &[&text])?;
        }
        let parcels = self.collect(call, self.others())?;
        let calls: Vec<Call> = parcels
            .iter()
            .map(|parcel| match parcel {
                None => Ok(ours.clone()),
                Some(parcel) => text::read(parcel.data()),
            })
            .collect::<Result<_>>()?;
        let calls: Vec<&Call> = calls.iter().collect();
        Ok(agree(&calls, &self.members).err().unwrap_or_else(|| {
            let expected = "digests that differ to have texts that differ";
            Error::config(format!("{call}"), expected, "equal texts")
        }))
    }

    /// Exchanges what `plan` says in rounds: in round `n`, rank `a` sends rank `b` the bytes
    /// `plan(n, a, b)` of what `view` shows of the state, and `land` does something with what came.
    pub(super) fn exchange<S>(
        &self,
        call: &Call,
        rounds: usize,
        state: &mut S,
        plan: impl Fn(usize, usize, usize) -> Range<usize>,
        view: for<'s> fn(&'s S) -> &'s [u8],
        mut land: impl FnMut(&mut S, usize, &Parcels),
    ) -> Result<()> {
        let mut sent = 0;
        for round in 0..rounds {
            while sent < rounds && sent <= round + AHEAD {
                for peer in self.others() {
                    let range = plan(sent, self.rank, peer);
                    if !range.is_empty() {
                        self.send(peer, &[&view(state)[range]])?;
                    }
                }
                sent += 1;
            }
            let length = |peer: usize| plan(round, peer, self.rank).len();
            let came = self.collect(call, self.others().filter(|peer| length(*peer) > 0))?;
            self.check(call, &came, length)?;
            land(state, round, &came);
            let done = came.into_iter().flatten();
            let _ = self.port().look(|view| view.recycle(done));
        }
        self.settle(call)
    }

    /// Everybody agreed on lengths, so another one is a fault below MPI, or in here.
    fn check(&self, call: &Call, came: &Parcels, length: impl Fn(usize) -> usize) -> Result<()> {
        let found = |peer: usize| came[peer].as_ref().map_or(0, |p| p.data().len());
        match self.others().find(|peer| found(*peer) != length(*peer)) {
            None => Ok(()),
            Some(peer) => Err(self.fail(Error::Corrupt {
                rank: self.members[self.rank],
                peer: self.members[peer],
                call: call.to_string(),
                problem: format!("{} bytes instead of {}", found(peer), length(peer)),
            })),
        }
    }

    /// Sends each rank's chunk of `buffer` to all ranks but `except`, which has them.
    pub(super) fn spread(
        &self,
        call: &Call,
        buffer: &mut [u8],
        chunk: impl Fn(usize) -> Range<usize>,
        except: Option<usize>,
    ) -> Result<()> {
        let block = self.block();
        let plan = |round, from, to| match except == Some(to) {
            true => 0..0,
            false => part(chunk(from), round, block),
        };
        let rounds = self.rounds(&chunk);
        self.exchange(
            call,
            rounds,
            &mut &mut *buffer,
            plan,
            |b| b,
            |buffer, round, came| {
                place(buffer, came, |peer| part(chunk(peer), round, block));
            },
        )
    }

    /// Bytes that one message carries: few enough that a round of all peers fits.
    pub(super) fn block(&self) -> usize {
        (ROUND / self.size()).clamp(LEAST, MOST) / 64 * 64
    }

    pub(super) fn rounds(&self, chunk: impl Fn(usize) -> Range<usize>) -> usize {
        let longest = (0..self.size()).map(|r| chunk(r).len()).max().unwrap_or(0);
        longest.div_ceil(self.block())
    }

    /// Reduces what came and this rank's `own` to `out`, in rank order.
    pub(super) fn reduce(
        &self,
        call: &Call,
        op: Reduce,
        own: &[u8],
        came: &[Option<&[u8]>],
        out: &mut [u8],
    ) {
        let sources: Vec<&[u8]> = came.iter().map(|data| data.unwrap_or(own)).collect();
        reduce(call.dtype, op, &sources, out, None);
    }
}

/// The data that came with the digests.
pub(super) fn small(came: &Parcels) -> Vec<Option<&[u8]>> {
    let data = large(came).into_iter();
    data.map(|d| d.map(|d| d.get(text::DIGEST..).unwrap_or_default()))
        .collect()
}

/// The data that came in a round.
pub(super) fn large(came: &Parcels) -> Vec<Option<&[u8]>> {
    came.iter().map(|p| p.as_ref().map(Parcel::data)).collect()
}

/// Copies each peer's data to its place.
pub(super) fn place(buffer: &mut [u8], came: &Parcels, at: impl Fn(usize) -> Range<usize>) {
    copy(buffer, large(came), at);
}

pub(super) fn place_small(buffer: &mut [u8], came: &Parcels, at: impl Fn(usize) -> Range<usize>) {
    copy(buffer, small(came), at);
}

fn copy(buffer: &mut [u8], came: Vec<Option<&[u8]>>, at: impl Fn(usize) -> Range<usize>) {
    for (peer, data) in came.into_iter().enumerate() {
        if let Some(data) = data {
            buffer[at(peer)].copy_from_slice(data);
        }
    }
}

/// Block number `index` of `range`; behind its end, nothing.
pub(super) fn part(range: Range<usize>, index: usize, block: usize) -> Range<usize> {
    let at = |n: usize| range.end.min(range.start + n * block);
    at(index)..at(index + 1)
}
