//! The progress of one buffer over one link, in either direction.

use super::super::Call;
use super::block::{Block, BlockReceiver, BlockSender, Moved, push_bytes};
use super::frame::{self, BLOCK, Kind, LENT_BLOCK};
use super::link::{Link, LinkError, Sending};

/// What this rank is to receive from one peer.
pub(super) trait Receive {
    /// The peer's rank in the group.
    fn peer(&self) -> usize;
    /// Whether all of it has arrived.
    fn is_done(&self) -> bool;
    /// Receives what is available; returns whether that was anything.
    fn pull(&mut self, link: &mut Link) -> Result<bool, LinkError>;
}

/// What this rank sends to one peer: an announcement, then data in frames.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) peer: usize,
    sequence: u64,
    announcement: &'a [u8],
    payload: &'a [u8],
    /// The longest block that is lent to a peer that reads this rank's memory; 0 if none is.
    lent_block: usize,
    /// Where the current block starts in the payload.
    block: usize,
    sender: BlockSender,
    /// Whether the peer has yet to read blocks of the payload.
    untaken: bool,
}

impl<'a> Outgoing<'a> {
    /// Blocks are copied: the payload may change once it was sent.
    pub(super) fn new(peer: usize, call: &Call, payload: &'a [u8]) -> Self {
        Self {
            peer,
            sequence: call.sequence,
            announcement: &[],
            payload,
            lent_block: 0,
            block: 0,
            sender: BlockSender::default(),
            untaken: false,
        }
    }

    /// The same, after the frame that announces the collective.
    pub(super) fn announced(mut self, announcement: &'a [u8]) -> Self {
        self.announcement = announcement;
        self
    }

    /// The same, for a peer that receives blocks of at most `block` bytes: it reads them where they are,
    /// if it can. The transfer is done when it has.
    pub(super) fn lent_in(mut self, block: usize) -> Self {
        self.lent_block = block;
        self
    }

    fn is_sent(&self) -> bool {
        self.announcement.is_empty() && self.block == self.payload.len()
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_sent() && !self.untaken
    }

    /// What it waits for.
    pub(super) fn waits_for(&self) -> Sending {
        match (self.is_sent(), self.untaken) {
            (false, _) => Sending::Room,
            (true, true) => Sending::Taken,
            (true, false) => Sending::Nothing,
        }
    }

    /// Sends what there is room for; returns whether that was anything.
    pub(super) fn push(&mut self, link: &mut Link) -> Result<bool, LinkError> {
        let mut moved = false;
        while self.block < self.payload.len() {
            let block = Block::first(&self.payload[self.block..], link, self.lent_block);
            let before = &mut self.announcement;
            match self.sender.push(link, before, self.sequence, block)? {
                Moved::Nothing => return Ok(moved),
                Moved::Part => {}
                Moved::All => self.block += block.bytes.len(),
            }
            moved = true;
        }
        moved |= push_bytes(link, &mut self.announcement)?;
        let untaken = !link.all_taken()?;
        moved |= self.untaken && !untaken;
        self.untaken = untaken;
        Ok(moved)
    }
}

/// The call that a peer announces.
#[derive(Debug)]
pub(super) struct PeerCall {
    peer: usize,
    receiver: BlockReceiver,
    body: Vec<u8>,
    pub(super) call: Option<Call>,
}

impl PeerCall {
    pub(super) fn new(peer: usize) -> Self {
        Self {
            peer,
            receiver: BlockReceiver::default(),
            body: Vec::new(),
            call: None,
        }
    }
}

impl Receive for PeerCall {
    fn peer(&self) -> usize {
        self.peer
    }

    fn is_done(&self) -> bool {
        self.call.is_some()
    }

    fn pull(&mut self, link: &mut Link) -> Result<bool, LinkError> {
        let mut moved = false;
        let Some(header) = self.receiver.header(link, &mut moved)? else {
            return Ok(moved);
        };
        if header.kind != Kind::Call {
            let problem = "data where the next collective should be announced";
            return Err(LinkError::Damaged(problem.into()));
        }
        self.body.resize(header.len, 0);
        let body = &mut self.body;
        if self.receiver.payload(link, header, body, &mut moved)? {
            self.call = Some(frame::decode(&self.body).map_err(LinkError::Damaged)?);
        }
        Ok(moved)
    }
}

/// Data from a peer, and the buffer that it is received into.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    peer: usize,
    sequence: u64,
    into: &'a mut [u8],
    /// The payload of a full frame.
    block: usize,
    /// Bytes received in full frames.
    have: usize,
    receiver: BlockReceiver,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(peer: usize, call: &Call, into: &'a mut [u8]) -> Self {
        Self {
            peer,
            sequence: call.sequence,
            into,
            block: BLOCK,
            have: 0,
            receiver: BlockReceiver::default(),
        }
    }

    /// The same, of a peer that sends in smaller blocks.
    pub(super) fn in_blocks(mut self, block: usize) -> Self {
        self.block = block;
        self
    }
}

impl Receive for Incoming<'_> {
    fn peer(&self) -> usize {
        self.peer
    }

    fn is_done(&self) -> bool {
        self.have == self.into.len()
    }

    fn pull(&mut self, link: &mut Link) -> Result<bool, LinkError> {
        let mut moved = false;
        while !self.is_done() {
            let Some(header) = self.receiver.header(link, &mut moved)? else {
                return Ok(moved);
            };
            let longest = if header.lent { LENT_BLOCK } else { self.block };
            let wanted = longest.min(self.into.len() - self.have);
            let is_next = header.kind == Kind::Data && header.sequence == self.sequence;
            if !is_next || header.len != wanted {
                return Err(LinkError::Damaged(format!(
                    "a frame {:?} of {} bytes for collective #{}, where {wanted} bytes of data for \
                     #{} belong",
                    header.kind, header.len, header.sequence, self.sequence
                )));
            }
            let into = &mut self.into[self.have..self.have + wanted];
            if !self.receiver.payload(link, header, into, &mut moved)? {
                return Ok(moved);
            }
            self.have += wanted;
        }
        Ok(moved)
    }
}
