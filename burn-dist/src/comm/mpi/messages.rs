//! The messages of this process that are being sent, and those that are received and unread.

use crate::error::Error;
use ferrompi::{Communicator, PersistentRequest, Source, Status};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The largest message, without its head, in bytes.
pub(super) const MAX_MESSAGE: usize = 1 << 18;
/// 64-bit words before the data: group, kind, number of bytes.
pub(super) const HEAD_WORDS: usize = 3;
/// Messages of up to so many words are copied, longer ones keep the buffer that they were received in.
const COPY_UP_TO_WORDS: usize = 1 << 10;
/// Buffers that are kept for later messages.
const SPARE_BUFFERS: usize = 32;

/// Data for a collective of the group.
pub(super) const DATA: u64 = 0;
/// The world has failed; the data is the cause.
pub(super) const ABORT: u64 = 1;
/// The sender issues no more collectives in this world.
pub(super) const LEAVE: u64 = 2;
/// The sender closes its endpoint and sends no more messages.
pub(super) const CLOSED: u64 = 3;
/// A message to oneself that completes an open receive.
pub(super) const END_RECEIVE: u64 = 4;

/// A received message.
pub(super) struct Message {
    words: Vec<u64>,
    bytes: usize,
    spare: bool,
}

/// The messages of this process.
#[derive(Default)]
pub(super) struct Messages {
    /// Oldest first: MPI completes them in this order, so one rank's messages are read in the order sent.
    pub(super) receives: VecDeque<PersistentRequest<u64>>,
    pub(super) sends: Vec<Sending>,
    /// Buffers to send from, of any length.
    pub(super) spare: Vec<Vec<u64>>,
    /// Buffers to receive into, of full length.
    empty: Vec<Vec<u64>>,
    /// Unread data, by group and sender.
    unread: HashMap<(u64, usize), VecDeque<Message>>,
    pub(super) worlds: HashMap<u64, WorldRecord>,
    pub(super) closed: BTreeSet<usize>,
}

/// A message that is being sent.
pub(super) struct Sending {
    pub(super) group: u64,
    pub(super) to: usize,
    pub(super) request: PersistentRequest<u64>,
}

/// What the other ranks have sent about a world.
#[derive(Default)]
pub(super) struct WorldRecord {
    pub(super) fault: Option<Error>,
    left: BTreeSet<usize>,
}

impl Message {
    pub(super) fn data(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words[HEAD_WORDS..])[..self.bytes]
    }
}

impl Messages {
    /// Opens one more receive.
    pub(super) fn receive(&mut self, comm: &Communicator) -> ferrompi::Result<()> {
        let buffer = self.empty.pop();
        let buffer = buffer.unwrap_or_else(|| vec![0; HEAD_WORDS + MAX_MESSAGE.div_ceil(8)]);
        let mut request = comm.recv_init(buffer, Source::Any, 0)?;
        request.start()?;
        self.receives.push_back(request);
        Ok(())
    }

    /// Completes receives and sends; returns whether any has completed.
    pub(super) fn poll(&mut self, comm: &Communicator) -> ferrompi::Result<bool> {
        let mut moved = self.release_sent()?;
        while let Some(first) = self.receives.front_mut() {
            let Some(status) = first.test()? else { break };
            let Some(mut request) = self.receives.pop_front() else {
                break;
            };
            let length = status.count.unwrap_or(0);
            let spare = length > COPY_UP_TO_WORDS;
            let words = if spare {
                let words = request.into_buffer()?;
                self.receive(comm)?;
                words
            } else {
                let words = request.buffer()?[..length].to_vec();
                request.start()?;
                self.receives.push_back(request);
                words
            };
            let message = Message {
                words,
                bytes: 0,
                spare,
            };
            self.deliver(&status, message);
            moved = true;
        }
        Ok(moved)
    }

    pub(super) fn release_sent(&mut self) -> ferrompi::Result<bool> {
        let before = self.sends.len();
        let mut at = 0;
        while let Some(sending) = self.sends.get_mut(at) {
            if sending.request.test()?.is_none() {
                at += 1;
                continue;
            }
            let buffer = self.sends.swap_remove(at).request.into_buffer()?;
            if self.spare.len() < SPARE_BUFFERS {
                self.spare.push(buffer);
            }
        }
        Ok(self.sends.len() < before)
    }

    fn deliver(&mut self, status: &Status, mut message: Message) {
        let (Source::Rank(from), Some(&[group, kind, bytes])) =
            (status.source, message.words.first_chunk::<HEAD_WORDS>())
        else {
            return;
        };
        let from = from as usize;
        message.bytes = (bytes as usize).min((message.words.len() - HEAD_WORDS) * 8);
        match kind {
            DATA => self
                .unread
                .entry((group, from))
                .or_default()
                .push_back(message),
            ABORT => {
                let cause = serde_json::from_slice(message.data());
                let cause = cause.unwrap_or_else(|_| Error::PeerFailed {
                    peer: from,
                    cause: "for a reason too long to send".into(),
                });
                let world = self.worlds.entry(group).or_default();
                world.fault.get_or_insert(cause);
            }
            LEAVE => {
                self.worlds.entry(group).or_default().left.insert(from);
            }
            CLOSED => {
                self.closed.insert(from);
            }
            _ => {}
        }
    }
}

/// The state that a waiting rank inspects after each poll of MPI.
pub(super) struct Progress<'a> {
    pub(super) messages: &'a mut Messages,
    /// Whether the poll has completed a send or a receive.
    pub(super) moved: bool,
}

impl Progress<'_> {
    /// The next message of `from` for `group`.
    pub(super) fn take(&mut self, group: u64, from: usize) -> Option<Message> {
        self.messages.unread.get_mut(&(group, from))?.pop_front()
    }

    /// Keeps the buffers of read messages for later receives.
    pub(super) fn recycle(&mut self, received: impl Iterator<Item = Message>) {
        let large = received.filter(|p| p.spare).map(|p| p.words);
        self.messages.empty.extend(large);
        self.messages.empty.truncate(SPARE_BUFFERS);
    }

    /// The ranks to which messages of `group` are still being sent.
    pub(super) fn sending(&self, group: u64) -> BTreeSet<usize> {
        let sends = self.messages.sends.iter().filter(|s| s.group == group);
        sends.map(|s| s.to).collect()
    }

    pub(super) fn fault(&self, world: u64) -> Option<Error> {
        self.messages.worlds.get(&world)?.fault.clone()
    }

    pub(super) fn has_left(&self, world: u64, rank: usize) -> bool {
        let world = self.messages.worlds.get(&world);
        world.is_some_and(|world| world.left.contains(&rank))
    }

    /// Drops the unread messages of a group.
    pub(super) fn forget(&mut self, group: u64) {
        self.messages.unread.retain(|(of, _), _| *of != group);
    }
}

/// How a rank waits: it spins at first, then sleeps longer and longer.
pub(super) struct Backoff {
    since: Instant,
}

impl Backoff {
    const BACKOFF_SPIN_FOR: Duration = Duration::from_micros(200);
    const LONGEST_SLEEP: Duration = Duration::from_millis(1);

    pub(super) fn new() -> Self {
        let since = Instant::now();
        Self { since }
    }

    pub(super) fn moved(&mut self, moved: bool) {
        if moved {
            self.since = Instant::now();
        }
    }

    pub(super) fn wait(&self) {
        let quiet = self.since.elapsed();
        if quiet < Self::BACKOFF_SPIN_FOR {
            // Yields, because the awaited rank may need this core.
            std::thread::yield_now();
        } else {
            std::thread::sleep((quiet / 8).min(Self::LONGEST_SLEEP));
        }
    }
}
