//! The exchange of a group's ranks: first their calls, then data in rounds.
//!
//! Every wait also checks for failures and for the deadline.

use super::group::Mpi;
use super::messages::{Backoff, MAX_MESSAGE, Message, Progress};
use super::wire;
use crate::comm::{Call, Reduce, agree, reduce::reduce};
use crate::error::{Error, Result};
use std::ops::Range;
use std::time::Instant;

/// Bytes of all peers' blocks together in one round.
const ROUND_BYTES: usize = 8 << 20;
/// The smallest block, for any number of peers.
const MIN_BLOCK: usize = 16 << 10;
/// Rounds that are sent before their data is waited for.
const ROUNDS_AHEAD: usize = 1;

/// The message of each peer, by its rank in the group.
pub(super) type Received = Vec<Option<Message>>;

impl Mpi {
    /// The other ranks, starting with the one after this rank.
    fn others(&self) -> impl Iterator<Item = usize> {
        (1..self.size()).map(|step| (self.rank + step) % self.size())
    }

    fn send(&self, peer: usize, parts: &[&[u8]]) -> Result<()> {
        let sent = self
            .endpoint()
            .send(self.members[peer], self.group.id, parts);
        sent.map_err(|error| self.fail(error))
    }

    /// Waits for one message of each of `peers`.
    fn receive_all(&self, call: &Call, peers: impl Iterator<Item = usize>) -> Result<Received> {
        let mut received: Received = (0..self.size()).map(|_| None).collect();
        let mut missing: Vec<usize> = peers.collect();
        self.until(call, |view| {
            missing.retain(|peer| {
                received[*peer] = view.take(self.group.id, self.members[*peer]);
                received[*peer].is_none()
            });
            missing.clone()
        })?;
        Ok(received)
    }

    /// Waits until this rank's messages are sent: MPI sends nothing while a rank computes.
    ///
    /// Peers that have left are not waited for: they have returned from this collective, so they have
    /// received what they needed.
    fn wait_sent(&self, call: &Call) -> Result<()> {
        let index = |rank: &usize| self.members.iter().position(|m| m == rank);
        self.until(call, |view| {
            let mut sending = view.sending(self.group.id);
            sending.retain(|rank| !view.has_left(self.world, *rank));
            sending.iter().filter_map(index).collect()
        })
    }

    /// Polls MPI until `f` returns no missing peers, or the wait must be given up.
    fn until(&self, call: &Call, mut f: impl FnMut(&mut Progress<'_>) -> Vec<usize>) -> Result<()> {
        let since = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let end = self.endpoint().progress(|view| {
                backoff.moved(view.moved);
                let missing = f(view);
                if missing.is_empty() {
                    return Some(Ok(()));
                }
                let missing: Vec<usize> = missing.iter().map(|p| self.members[*p]).collect();
                self.wait_error(call, view, missing, since).map(Err)
            });
            match end.map_err(|error| self.fail(error))? {
                Some(result) => return result.map_err(|error| self.fail(error)),
                None => backoff.wait(),
            }
        }
    }

    /// The error of a rank that waits for `missing`, if it must give up.
    fn wait_error(
        &self,
        call: &Call,
        view: &Progress<'_>,
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

    /// Sends every peer the call's digest with the data that `inline` gives for it, and compares digests.
    ///
    /// Returns the peers' messages, with their data for this rank.
    pub(super) fn exchange_calls<'a>(
        &self,
        call: &Call,
        inline: impl Fn(usize) -> &'a [u8],
    ) -> Result<Received> {
        let fault = self.endpoint().progress(|view| view.fault(self.world));
        if let Some(fault) = fault.map_err(|error| self.fail(error))? {
            return Err(fault);
        }
        let ours = wire::digest(call);
        for peer in self.others() {
            self.send(peer, &[&ours, inline(peer)])?;
        }
        let received = self.receive_all(call, self.others())?;
        self.wait_sent(call)?;
        if received
            .iter()
            .flatten()
            .all(|p| p.data().starts_with(&ours))
        {
            return Ok(received);
        }
        Err(self.fail(self.mismatch(call)?))
    }

    /// The error for calls that differ; every rank runs this, as every rank has compared the digests.
    fn mismatch(&self, call: &Call) -> Result<Error> {
        let mut ours = call.clone();
        ours.label.unit = wire::shortened(&call.label.unit);
        ours.label.detail = wire::shortened(&call.label.detail);
        let encoded = wire::encode(&ours);
        for peer in self.others() {
            self.send(peer, &[&encoded])?;
        }
        let received = self.receive_all(call, self.others())?;
        let calls: Vec<Call> = received
            .iter()
            .map(|message| match message {
                None => Ok(ours.clone()),
                Some(message) => wire::decode(message.data()),
            })
            .collect::<Result<_>>()?;
        let calls: Vec<&Call> = calls.iter().collect();
        Ok(agree(&calls, &self.members).err().unwrap_or_else(|| {
            let expected = "digests that differ to have texts that differ";
            Error::config(format!("{call}"), expected, "equal texts")
        }))
    }

    /// Exchanges what `plan` returns in rounds: in round `n`, rank `a` sends rank `b` the bytes
    /// `plan(n, a, b)` of what `view` returns of the state, and `consume` uses what was received.
    pub(super) fn exchange<S>(
        &self,
        call: &Call,
        rounds: usize,
        state: &mut S,
        plan: impl Fn(usize, usize, usize) -> Range<usize>,
        view: for<'s> fn(&'s S) -> &'s [u8],
        mut consume: impl FnMut(&mut S, usize, &Received),
    ) -> Result<()> {
        let mut sent = 0;
        for round in 0..rounds {
            while sent < rounds && sent <= round + ROUNDS_AHEAD {
                for peer in self.others() {
                    let range = plan(sent, self.rank, peer);
                    if !range.is_empty() {
                        self.send(peer, &[&view(state)[range]])?;
                    }
                }
                sent += 1;
            }
            let length = |peer: usize| plan(round, peer, self.rank).len();
            let received =
                self.receive_all(call, self.others().filter(|peer| length(*peer) > 0))?;
            self.check(call, &received, length)?;
            consume(state, round, &received);
            let done = received.into_iter().flatten();
            let _ = self.endpoint().progress(|view| view.recycle(done));
        }
        self.wait_sent(call)
    }

    /// All ranks have agreed on lengths, so another one is a fault of the network or a bug.
    fn check(
        &self,
        call: &Call,
        received: &Received,
        length: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let found = |peer: usize| received[peer].as_ref().map_or(0, |p| p.data().len());
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

    /// Sends each rank's chunk of `buffer` to all ranks but `except`, which has all chunks.
    pub(super) fn send_chunks(
        &self,
        call: &Call,
        buffer: &mut [u8],
        chunk: impl Fn(usize) -> Range<usize>,
        except: Option<usize>,
    ) -> Result<()> {
        let block = self.block();
        let plan = |round, from, to| {
            if except == Some(to) {
                0..0
            } else {
                block_of(chunk(from), round, block)
            }
        };
        let rounds = self.rounds(&chunk);
        self.exchange(
            call,
            rounds,
            &mut &mut *buffer,
            plan,
            |b| b,
            |buffer, round, received| {
                copy_to(buffer, received, |peer| block_of(chunk(peer), round, block));
            },
        )
    }

    /// Bytes of one message: a round of all peers has at most `ROUND_BYTES`, or `MIN_BLOCK` from each.
    pub(super) fn block(&self) -> usize {
        (ROUND_BYTES / self.size()).clamp(MIN_BLOCK, MAX_MESSAGE) / 64 * 64
    }

    pub(super) fn rounds(&self, chunk: impl Fn(usize) -> Range<usize>) -> usize {
        let longest = (0..self.size()).map(|r| chunk(r).len()).max().unwrap_or(0);
        longest.div_ceil(self.block())
    }

    /// Reduces the `received` data and this rank's `own` to `out`, in rank order.
    pub(super) fn reduce(
        &self,
        call: &Call,
        op: Reduce,
        own: &[u8],
        received: &[Option<&[u8]>],
        out: &mut [u8],
    ) {
        let sources: Vec<&[u8]> = received.iter().map(|data| data.unwrap_or(own)).collect();
        reduce(call.dtype, op, &sources, out, None);
    }
}

/// The data that was sent with the digests.
pub(super) fn inline_data(received: &Received) -> Vec<Option<&[u8]>> {
    let data = round_data(received).into_iter();
    data.map(|d| d.map(|d| d.get(wire::DIGEST_BYTES..).unwrap_or_default()))
        .collect()
}

/// The data that was sent in a round.
pub(super) fn round_data(received: &Received) -> Vec<Option<&[u8]>> {
    received
        .iter()
        .map(|p| p.as_ref().map(Message::data))
        .collect()
}

/// Copies each peer's data to where it belongs.
pub(super) fn copy_to(buffer: &mut [u8], received: &Received, at: impl Fn(usize) -> Range<usize>) {
    copy_each(buffer, round_data(received), at);
}

pub(super) fn copy_small_to(
    buffer: &mut [u8],
    received: &Received,
    at: impl Fn(usize) -> Range<usize>,
) {
    copy_each(buffer, inline_data(received), at);
}

fn copy_each(buffer: &mut [u8], received: Vec<Option<&[u8]>>, at: impl Fn(usize) -> Range<usize>) {
    for (peer, data) in received.into_iter().enumerate() {
        if let Some(data) = data {
            buffer[at(peer)].copy_from_slice(data);
        }
    }
}

/// Block number `index` of `range`; empty after its end.
pub(super) fn block_of(range: Range<usize>, index: usize, block: usize) -> Range<usize> {
    let at = |n: usize| range.end.min(range.start + n * block);
    at(index)..at(index + 1)
}
