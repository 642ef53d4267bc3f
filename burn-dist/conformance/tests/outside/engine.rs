//! A collective engine outside of burn-dist, made of its public items only: threads that send each other
//! messages over channels.
//!
//! It is an example of the contract in [`burn_dist::comm::Engine`], small and not fast. Every collective
//! is one exchange: each rank sends each rank, itself included, its call with the bytes for it, waits
//! for the messages of all, and compares the calls before it writes to the caller's memory.

use burn_dist::comm::{Call, Engine, Reduce, Span, SpanMut, agree, reduce_into};
use burn_dist::{Error, Result};
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often a waiting rank checks for failures, leavers and the deadline.
const POLL_EVERY: Duration = Duration::from_millis(5);

/// What one rank sends one rank in a collective.
#[derive(Debug)]
struct Message {
    call: Call,
    data: Vec<u8>,
    /// In a split, the sending end of a channel of the new group.
    sender: Option<Sender<Message>>,
}

/// What all groups of a world share: a failure in one of them ends all.
#[derive(Debug)]
struct Shared {
    deadline: Duration,
    fault: Mutex<Option<Error>>,
    left: Mutex<BTreeSet<usize>>,
}

/// One rank's engine for one group.
#[derive(Debug)]
pub(crate) struct Channels {
    shared: Arc<Shared>,
    rank: usize,
    /// By their rank in the world.
    members: Vec<usize>,
    /// The ends of the channels to and from each member, itself included.
    to: Vec<Sender<Message>>,
    from: Vec<Mutex<Receiver<Message>>>,
}

impl Channels {
    /// The engines of a world of `size` ranks.
    pub(crate) fn world(size: usize, deadline: Duration) -> Vec<Self> {
        let shared = Arc::new(Shared {
            deadline,
            fault: Mutex::default(),
            left: Mutex::default(),
        });
        let (mut to, mut from): (Vec<Vec<_>>, Vec<Vec<_>>) = Default::default();
        to.resize_with(size, Vec::new);
        from.resize_with(size, Vec::new);
        for sender in &mut to {
            for receiver in &mut from {
                let (send, receive) = channel();
                sender.push(send);
                receiver.push(Mutex::new(receive));
            }
        }
        let rank = |(rank, (to, from))| Self {
            shared: shared.clone(),
            rank,
            members: (0..size).collect(),
            to,
            from,
        };
        to.into_iter().zip(from).enumerate().map(rank).collect()
    }

    /// Records the world's failure unless there is one; returns the first one.
    fn fail(&self, error: Error) -> Error {
        let mut fault = self.shared.fault.lock().unwrap();
        fault.get_or_insert(error).clone()
    }

    /// Sends each member its data, and returns what all members have sent, in rank order, once their
    /// calls agree.
    fn exchange(&self, call: &Call, data: impl Fn(usize) -> Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let messages = self.exchange_messages(call, |member| (data(member), None))?;
        Ok(messages.into_iter().map(|message| message.data).collect())
    }

    fn exchange_messages(
        &self,
        call: &Call,
        mut parts: impl FnMut(usize) -> (Vec<u8>, Option<Sender<Message>>),
    ) -> Result<Vec<Message>> {
        // After a failure every later call fails with the same cause.
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        for (member, to) in self.to.iter().enumerate() {
            let (data, sender) = parts(member);
            let call = call.clone();
            // A member whose engine is dropped does not answer either, which the wait reports.
            let _ = to.send(Message { call, data, sender });
        }
        let since = Instant::now();
        let messages = (0..self.members.len())
            .map(|member| self.receive(call, member, since))
            .collect::<Result<Vec<_>>>()
            .map_err(|error| self.fail(error))?;
        let calls: Vec<&Call> = messages.iter().map(|message| &message.call).collect();
        agree(&calls, &self.members).map_err(|error| self.fail(error))?;
        Ok(messages)
    }

    /// The next message of a member; an error after the deadline, a failure, or if it has left.
    fn receive(&self, call: &Call, member: usize, since: Instant) -> Result<Message> {
        let (rank, peer) = (self.members[self.rank], self.members[member]);
        loop {
            // Read before the channel: a rank that leaves has sent all of its messages.
            let left = self.shared.left.lock().unwrap().contains(&peer);
            let received = self.from[member].lock().unwrap().recv_timeout(POLL_EVERY);
            if let Ok(message) = received {
                return Ok(message);
            }
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
            if left {
                let call = call.to_string();
                return Err(Error::PeerLeft { rank, peer, call });
            }
            if since.elapsed() >= self.shared.deadline {
                let late = |m: &usize| self.from[*m].lock().unwrap().try_recv().is_err();
                let later = (member + 1..self.members.len()).filter(late);
                return Err(Error::Timeout {
                    rank,
                    call: call.to_string(),
                    waited: self.shared.deadline,
                    missing: [member]
                        .into_iter()
                        .chain(later)
                        .map(|m| self.members[m])
                        .collect(),
                });
            }
        }
    }
}

impl Engine for Channels {
    fn rank(&self) -> usize {
        self.rank
    }

    fn members(&self) -> &[usize] {
        &self.members
    }

    fn all_gather(&self, call: &Call, mut buffer: SpanMut<'_>) -> Result<()> {
        let piece = call.len * call.dtype.size();
        let own = buffer.bytes()[self.rank * piece..][..piece].to_vec();
        let pieces = self.exchange(call, |_| own.clone())?;
        buffer.bytes_mut().copy_from_slice(&pieces.concat());
        Ok(())
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: Span<'_>,
        recv: SpanMut<'_>,
    ) -> Result<()> {
        let chunk = recv.bytes().len();
        let chunks = self.exchange(call, |member| {
            send.bytes()[member * chunk..][..chunk].to_vec()
        })?;
        reduce_into(op, &spans(call, &chunks), recv)
    }

    fn all_reduce(&self, call: &Call, op: Reduce, buffer: SpanMut<'_>) -> Result<()> {
        let buffers = self.exchange(call, |_| buffer.bytes().to_vec())?;
        reduce_into(op, &spans(call, &buffers), buffer)
    }

    fn broadcast(&self, call: &Call, root: usize, mut buffer: SpanMut<'_>) -> Result<()> {
        let is_root = self.rank == root;
        let sent = if is_root { buffer.bytes() } else { &[] };
        let buffers = self.exchange(call, |_| sent.to_vec())?;
        buffer.bytes_mut().copy_from_slice(&buffers[root]);
        Ok(())
    }

    fn barrier(&self, call: &Call) -> Result<()> {
        self.exchange(call, |_| Vec::new()).map(drop)
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let mine = [color, key].map(usize::to_le_bytes).concat();
        let mut from = Vec::new();
        let messages = self.exchange_messages(call, |_| {
            let (send, receive) = channel();
            from.push(Some(Mutex::new(receive)));
            (mine.clone(), Some(send))
        })?;
        let number = |bytes: &[u8]| usize::from_le_bytes(bytes.try_into().unwrap());
        let mut group: Vec<_> = messages.into_iter().enumerate().collect();
        group.retain(|(_, message)| number(&message.data[..8]) == color);
        // Sorting is stable, so equal keys stay in rank order.
        group.sort_by_key(|(_, message)| number(&message.data[8..]));
        Ok(Arc::new(Self {
            shared: self.shared.clone(),
            rank: group.iter().position(|(r, _)| *r == self.rank).unwrap(),
            members: group.iter().map(|(r, _)| self.members[*r]).collect(),
            from: group
                .iter()
                .map(|(r, _)| from[*r].take().unwrap())
                .collect(),
            to: group.into_iter().map(|(_, m)| m.sender.unwrap()).collect(),
        }))
    }

    fn fault(&self) -> Option<Error> {
        self.shared.fault.lock().unwrap().clone()
    }

    fn abort(&self, error: Error) {
        self.fail(error);
    }

    fn leave(&self) {
        let mut left = self.shared.left.lock().unwrap();
        left.insert(self.members[self.rank]);
    }
}

/// What all ranks have sent, as elements of the call's type.
fn spans<'a>(call: &Call, buffers: &'a [Vec<u8>]) -> Vec<Span<'a>> {
    buffers.iter().map(|b| Span::new(b, call.dtype)).collect()
}
