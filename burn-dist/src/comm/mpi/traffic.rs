//! What of this process's messages is under way, and what has come.

use crate::error::Error;
use ferrompi::{Communicator, PersistentRequest, Source, Status};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Most bytes of one message, besides its head.
pub(super) const MOST: usize = 1 << 18;
/// Words before the data: group, kind, bytes.
pub(super) const HEAD: usize = 3;
/// Messages of up to so many words are copied, longer ones keep the buffer they came in.
const COPIED: usize = 1 << 10;
/// Sent buffers that are kept for the next messages.
const SPARE: usize = 32;

/// Data for a collective of the group.
pub(super) const MAIL: u64 = 0;
/// The world has failed; the data is the cause.
pub(super) const ABORT: u64 = 1;
/// The sender issues no more collectives in this world.
pub(super) const LEAVE: u64 = 2;
/// The sender will send nothing at all any more.
pub(super) const BYE: u64 = 3;
/// Ends a receive of one's own.
pub(super) const NOTHING: u64 = 4;

/// A message.
pub(super) struct Parcel {
    words: Vec<u64>,
    bytes: usize,
    spare: bool,
}

#[derive(Default)]
pub(super) struct Traffic {
    /// Oldest first: MPI fills them in this order, so what one rank sent is read in its order.
    pub(super) receives: VecDeque<PersistentRequest<u64>>,
    pub(super) sends: Vec<Sending>,
    /// Buffers to send from, of any length.
    pub(super) spare: Vec<Vec<u64>>,
    /// Buffers to receive in, of full length.
    empty: Vec<Vec<u64>>,
    /// Unread data, by group and sender.
    mail: HashMap<(u64, usize), VecDeque<Parcel>>,
    pub(super) fates: HashMap<u64, Fate>,
    pub(super) bye: BTreeSet<usize>,
}

pub(super) struct Sending {
    pub(super) group: u64,
    pub(super) to: usize,
    pub(super) request: PersistentRequest<u64>,
}

/// What is known of a world.
#[derive(Default)]
pub(super) struct Fate {
    pub(super) fault: Option<Error>,
    left: BTreeSet<usize>,
}

impl Parcel {
    pub(super) fn data(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words[HEAD..])[..self.bytes]
    }
}

impl Traffic {
    /// Opens one more receive.
    pub(super) fn receive(&mut self, comm: &Communicator) -> ferrompi::Result<()> {
        let buffer = self.empty.pop();
        let buffer = buffer.unwrap_or_else(|| vec![0; HEAD + MOST.div_ceil(8)]);
        let mut request = comm.recv_init(buffer, Source::Any, 0)?;
        request.start()?;
        self.receives.push_back(request);
        Ok(())
    }

    /// Takes what has come and lets go of what has gone; says whether there was any.
    pub(super) fn poll(&mut self, comm: &Communicator) -> ferrompi::Result<bool> {
        let mut moved = self.reap()?;
        while let Some(first) = self.receives.front_mut() {
            let Some(status) = first.test()? else { break };
            let Some(mut request) = self.receives.pop_front() else {
                break;
            };
            let length = status.count.unwrap_or(0);
            let parcel = match length <= COPIED {
                true => {
                    let words = request.buffer()?[..length].to_vec();
                    request.start()?;
                    self.receives.push_back(request);
                    Parcel {
                        words,
                        bytes: 0,
                        spare: false,
                    }
                }
                false => {
                    let words = request.into_buffer()?;
                    self.receive(comm)?;
                    Parcel {
                        words,
                        bytes: 0,
                        spare: true,
                    }
                }
            };
            self.deliver(&status, parcel);
            moved = true;
        }
        Ok(moved)
    }

    pub(super) fn reap(&mut self) -> ferrompi::Result<bool> {
        let before = self.sends.len();
        let mut at = 0;
        while let Some(sending) = self.sends.get_mut(at) {
            if sending.request.test()?.is_none() {
                at += 1;
                continue;
            }
            let buffer = self.sends.swap_remove(at).request.into_buffer()?;
            if self.spare.len() < SPARE {
                self.spare.push(buffer);
            }
        }
        Ok(self.sends.len() < before)
    }

    fn deliver(&mut self, status: &Status, mut parcel: Parcel) {
        let (Source::Rank(from), Some(&[group, kind, bytes])) =
            (status.source, parcel.words.first_chunk::<HEAD>())
        else {
            return;
        };
        let from = from as usize;
        parcel.bytes = (bytes as usize).min((parcel.words.len() - HEAD) * 8);
        match kind {
            MAIL => self
                .mail
                .entry((group, from))
                .or_default()
                .push_back(parcel),
            ABORT => {
                let cause = serde_json::from_slice(parcel.data());
                let cause = cause.unwrap_or_else(|_| Error::PeerFailed {
                    peer: from,
                    cause: "for a reason too long to send".into(),
                });
                let fate = self.fates.entry(group).or_default();
                fate.fault.get_or_insert(cause);
            }
            LEAVE => {
                self.fates.entry(group).or_default().left.insert(from);
            }
            BYE => {
                self.bye.insert(from);
            }
            _ => {}
        }
    }
}

/// What a waiting rank sees.
pub(super) struct View<'a> {
    pub(super) traffic: &'a mut Traffic,
    /// Whether anything has come or gone since the last look.
    pub(super) moved: bool,
}

impl View<'_> {
    /// The next message of `from` for `group`.
    pub(super) fn take(&mut self, group: u64, from: usize) -> Option<Parcel> {
        self.traffic.mail.get_mut(&(group, from))?.pop_front()
    }

    /// Gives the memory of messages back.
    pub(super) fn recycle(&mut self, parcels: impl Iterator<Item = Parcel>) {
        let large = parcels.filter(|p| p.spare).map(|p| p.words);
        self.traffic.empty.extend(large);
        self.traffic.empty.truncate(SPARE);
    }

    /// To whom something of `group` is still on its way.
    pub(super) fn sending(&self, group: u64) -> BTreeSet<usize> {
        let sends = self.traffic.sends.iter().filter(|s| s.group == group);
        sends.map(|s| s.to).collect()
    }

    pub(super) fn fault(&self, world: u64) -> Option<Error> {
        self.traffic.fates.get(&world)?.fault.clone()
    }

    pub(super) fn has_left(&self, world: u64, rank: usize) -> bool {
        let fate = self.traffic.fates.get(&world);
        fate.is_some_and(|fate| fate.left.contains(&rank))
    }

    /// Forgets the unread messages of a group.
    pub(super) fn forget(&mut self, group: u64) {
        self.traffic.mail.retain(|(of, _), _| *of != group);
    }
}

/// How a rank waits: awake as long as something may happen at once, then ever more asleep.
pub(super) struct Backoff {
    since: Instant,
}

impl Backoff {
    const AWAKE: Duration = Duration::from_micros(200);
    const LONGEST: Duration = Duration::from_millis(1);

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
        match quiet < Self::AWAKE {
            // Not a bare spin: the rank it waits for may need this very core.
            true => std::thread::yield_now(),
            false => std::thread::sleep((quiet / 8).min(Self::LONGEST)),
        }
    }
}
