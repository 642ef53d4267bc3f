//! One frame on its way over a link, in either direction.

use super::frame::{ADDRESS, BLOCK, HEADER, Header, Kind};
use super::link::{Link, LinkError};
use std::io::{self, IoSlice};

/// Shorter blocks are copied, to a peer that could read them in place, too: that costs less than to wait
/// until it has.
const LEND_FROM: usize = 64 << 10;

/// How far a frame has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// No byte has moved.
    Nothing,
    /// Some bytes have.
    Part,
    /// The frame is complete.
    All,
}

/// The block that is being sent.
#[derive(Debug, Default)]
pub(super) struct BlockSender {
    frame: Option<FrameHead>,
    sent: usize,
}

/// A header, then the address of a block that is lent.
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    bytes: [u8; HEADER + ADDRESS],
}

/// What one frame carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether the peer reads it where it is.
    lent: bool,
}

impl<'a> Block<'a> {
    /// The first block of what is left of a payload: up to `lent_block` bytes that the peer reads where
    /// they are, or else [`BLOCK`] bytes.
    pub(super) fn first(rest: &'a [u8], link: &Link, lent_block: usize) -> Self {
        let lent = rest.len().min(lent_block) >= LEND_FROM && link.reads_in_place();
        let longest = if lent { lent_block } else { BLOCK };
        let bytes = &rest[..rest.len().min(longest)];
        Self { bytes, lent }
    }
}

impl BlockSender {
    /// Sends as much of the block as there is room for, after what is left of `before`.
    ///
    /// It is called with the same block until that is complete. A block that was lent must not change
    /// before [`Link::all_taken`].
    pub(super) fn push(
        &mut self,
        link: &mut Link,
        before: &mut &[u8],
        sequence: u64,
        block: Block<'_>,
    ) -> io::Result<Moved> {
        let Block { bytes, lent } = block;
        let frame = *self
            .frame
            .get_or_insert_with(|| FrameHead::new(sequence, block, link));
        let (head, body) = if lent {
            (&frame.bytes[..], &[][..])
        } else {
            (&frame.bytes[..HEADER], bytes)
        };
        let parts = [
            &**before,
            &head[self.sent.min(head.len())..],
            &body[self.sent.saturating_sub(head.len())..],
        ];
        let n = link.send(&parts.map(IoSlice::new))?;
        let first = n.min(before.len());
        *before = &before[first..];
        self.sent += n - first;
        if self.sent < head.len() + body.len() {
            return Ok(if n > 0 { Moved::Part } else { Moved::Nothing });
        }
        if lent {
            link.lend();
        }
        *self = Self::default();
        Ok(Moved::All)
    }
}

/// Sends what is left of `bytes`, as far as there is room; returns whether that was anything.
pub(super) fn push_bytes(link: &mut Link, bytes: &mut &[u8]) -> io::Result<bool> {
    if bytes.is_empty() {
        return Ok(false);
    }
    let n = link.send(&[IoSlice::new(bytes)])?;
    *bytes = &bytes[n..];
    Ok(n > 0)
}

impl FrameHead {
    fn new(sequence: u64, Block { bytes, lent }: Block<'_>, link: &Link) -> Self {
        let checked = link.is_checked();
        let header = Header {
            kind: Kind::Data,
            lent,
            len: bytes.len(),
            sequence,
            crc: if checked { crc32fast::hash(bytes) } else { 0 },
        };
        let address = bytes.as_ptr().expose_provenance() as u64;
        let mut head = [0; HEADER + ADDRESS];
        head[..HEADER].copy_from_slice(&header.encode());
        head[HEADER..].copy_from_slice(&address.to_le_bytes());
        Self { bytes: head }
    }
}

/// The frame that is being received: its header first, then its payload.
#[derive(Debug, Default)]
pub(super) struct BlockReceiver {
    head: [u8; HEADER],
    have: usize,
    header: Option<Header>,
    address: [u8; ADDRESS],
    hash: crc32fast::Hasher,
}

impl BlockReceiver {
    /// The header of the frame under way, once it is complete.
    pub(super) fn header(
        &mut self,
        link: &mut Link,
        moved: &mut bool,
    ) -> Result<Option<Header>, LinkError> {
        if self.header.is_some() {
            return Ok(self.header);
        }
        let n = link.receive(&mut self.head[self.have..])?;
        self.have += n;
        *moved |= n > 0;
        if self.have < HEADER {
            return Ok(None);
        }
        self.have = 0;
        let header = Header::decode(&self.head).map_err(LinkError::Damaged)?;
        if header.kind == Kind::Bye {
            return Err(LinkError::Left);
        }
        self.header = Some(header);
        Ok(self.header)
    }

    /// Receives the payload of that frame into `into`, which is as long; returns whether it is complete.
    pub(super) fn payload(
        &mut self,
        link: &mut Link,
        header: Header,
        into: &mut [u8],
        moved: &mut bool,
    ) -> Result<bool, LinkError> {
        if header.lent {
            let n = link.receive(&mut self.address[self.have..])?;
            self.have += n;
            *moved |= n > 0;
            if self.have < ADDRESS {
                return Ok(false);
            }
            link.take(u64::from_le_bytes(self.address), into)?;
        } else {
            let n = link.receive(&mut into[self.have..])?;
            *moved |= n > 0;
            let checked = link.is_checked() || header.kind == Kind::Call;
            if checked {
                self.hash.update(&into[self.have..self.have + n]);
            }
            self.have += n;
            if self.have < into.len() {
                return Ok(false);
            }
            if checked {
                check(&header, std::mem::take(&mut self.hash))?;
            }
        }
        (self.have, self.header) = (0, None);
        Ok(true)
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
