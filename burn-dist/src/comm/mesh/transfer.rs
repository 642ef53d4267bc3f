//! The progress of one buffer over one link, in either direction.

use super::super::Call;
use super::frame::{self, BLOCK, HEADER, Header, Kind};
use super::link::Link;
use std::io::{self, IoSlice};

/// Why a link cannot be used any more.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The connection broke.
    Broken(io::Error),
    /// The received bytes are not a valid frame.
    Damaged(String),
    /// The peer has left its group.
    Left,
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Damaged(error.to_string()),
            _ => Self::Broken(error),
        }
    }
}

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
    /// Where the current block starts in the payload.
    block: usize,
    /// The current block's header, and how much of header and block has been sent.
    header: Option<[u8; HEADER]>,
    sent: usize,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(peer: usize, call: &Call, payload: &'a [u8]) -> Self {
        Self {
            peer,
            sequence: call.sequence,
            announcement: &[],
            payload,
            block: 0,
            header: None,
            sent: 0,
        }
    }

    /// The same, after the frame that announces the collective.
    pub(super) fn announced(mut self, announcement: &'a [u8]) -> Self {
        self.announcement = announcement;
        self
    }

    pub(super) fn is_done(&self) -> bool {
        self.announcement.is_empty() && self.block == self.payload.len()
    }

    /// Sends what there is room for; returns whether that was anything.
    pub(super) fn push(&mut self, link: &mut Link) -> Result<bool, LinkError> {
        let mut moved = false;
        while !self.is_done() {
            let block = &self.payload[self.block..self.payload.len().min(self.block + BLOCK)];
            let header = *self.header.get_or_insert_with(|| {
                let crc = if link.is_checked() {
                    crc32fast::hash(block)
                } else {
                    0
                };
                let (kind, len, sequence) = (Kind::Data, block.len(), self.sequence);
                Header {
                    kind,
                    len,
                    sequence,
                    crc,
                }
                .encode()
            });
            // An empty block has no frame.
            let head = if block.is_empty() {
                &[]
            } else {
                &header[self.sent.min(HEADER)..]
            };
            let body = &block[self.sent.saturating_sub(HEADER)..];
            let parts = [self.announcement, head, body].map(IoSlice::new);
            let n = link.send(&parts)?;
            if n == 0 {
                return Ok(moved);
            }
            moved = true;
            let first = n.min(self.announcement.len());
            self.announcement = &self.announcement[first..];
            self.sent += n - first;
            if !block.is_empty() && self.sent == HEADER + block.len() {
                self.block += block.len();
                (self.header, self.sent) = (None, 0);
            }
        }
        Ok(moved)
    }
}

/// The received part of the next frame's header.
#[derive(Debug)]
struct HeaderReader {
    bytes: [u8; HEADER],
    have: usize,
}

impl HeaderReader {
    fn new() -> Self {
        Self {
            bytes: [0; HEADER],
            have: 0,
        }
    }

    /// The header, once it is complete.
    fn pull(&mut self, link: &mut Link, moved: &mut bool) -> Result<Option<Header>, LinkError> {
        let n = link.receive(&mut self.bytes[self.have..])?;
        self.have += n;
        *moved |= n > 0;
        if self.have < HEADER {
            return Ok(None);
        }
        self.have = 0;
        let header = Header::decode(&self.bytes).map_err(LinkError::Damaged)?;
        match header.kind {
            Kind::Bye => Err(LinkError::Left),
            _ => Ok(Some(header)),
        }
    }
}

fn check(header: &Header, hash: crc32fast::Hasher) -> Result<(), LinkError> {
    let found = hash.finalize();
    if found == header.crc {
        return Ok(());
    }
    Err(LinkError::Damaged(format!(
        "the checksum of {} bytes is {found:08x}, {:08x} was sent",
        header.len, header.crc
    )))
}

/// The call that a peer announces.
#[derive(Debug)]
pub(super) struct PeerCall {
    peer: usize,
    head: HeaderReader,
    header: Option<Header>,
    body: Vec<u8>,
    have: usize,
    pub(super) call: Option<Call>,
}

impl PeerCall {
    pub(super) fn new(peer: usize) -> Self {
        let (head, body) = (HeaderReader::new(), Vec::new());
        Self {
            peer,
            head,
            header: None,
            body,
            have: 0,
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
        let header = match self.header {
            Some(header) => header,
            None => match self.head.pull(link, &mut moved)? {
                None => return Ok(moved),
                Some(header) if header.kind == Kind::Call => {
                    self.body = vec![0; header.len];
                    *self.header.insert(header)
                }
                Some(_) => {
                    let problem = "data where the next collective should be announced";
                    return Err(LinkError::Damaged(problem.into()));
                }
            },
        };
        let n = link.receive(&mut self.body[self.have..])?;
        self.have += n;
        if self.have == header.len {
            let mut hash = crc32fast::Hasher::new();
            hash.update(&self.body);
            check(&header, hash)?;
            self.call = Some(frame::decode(&self.body).map_err(LinkError::Damaged)?);
        }
        Ok(moved || n > 0)
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
    /// Bytes received, and those of them that belong to the current frame.
    have: usize,
    in_frame: usize,
    head: HeaderReader,
    header: Option<Header>,
    hash: crc32fast::Hasher,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(peer: usize, call: &Call, into: &'a mut [u8]) -> Self {
        Self {
            peer,
            sequence: call.sequence,
            into,
            block: BLOCK,
            have: 0,
            in_frame: 0,
            head: HeaderReader::new(),
            header: None,
            hash: crc32fast::Hasher::new(),
        }
    }

    /// The same, of a peer that sends in smaller blocks.
    pub(super) fn in_blocks(mut self, block: usize) -> Self {
        self.block = block;
        self
    }

    /// Begins a frame, which must hold exactly the next block.
    fn begin(&mut self, header: Header) -> Result<Header, LinkError> {
        let wanted = self.block.min(self.into.len() - self.have);
        if header.kind != Kind::Data || header.sequence != self.sequence || header.len != wanted {
            let Header {
                kind,
                len,
                sequence,
                ..
            } = header;
            return Err(LinkError::Damaged(format!(
                "a frame {kind:?} of {len} bytes for collective #{sequence}, where {wanted} bytes \
                 of data for #{} belong",
                self.sequence
            )));
        }
        self.in_frame = 0;
        self.hash = crc32fast::Hasher::new();
        Ok(*self.header.insert(header))
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
            let header = match self.header {
                Some(header) => header,
                None => match self.head.pull(link, &mut moved)? {
                    None => return Ok(moved),
                    Some(header) => self.begin(header)?,
                },
            };
            let range = self.have..self.have + header.len - self.in_frame;
            let n = link.receive(&mut self.into[range])?;
            if n == 0 {
                return Ok(moved);
            }
            moved = true;
            if link.is_checked() {
                self.hash.update(&self.into[self.have..self.have + n]);
            }
            self.have += n;
            self.in_frame += n;
            if self.in_frame == header.len {
                if link.is_checked() {
                    check(&header, std::mem::take(&mut self.hash))?;
                }
                self.header = None;
            }
        }
        Ok(moved)
    }
}
