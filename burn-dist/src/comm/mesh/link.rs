//! The connection of two ranks: a stream of bytes both ways that never blocks.
//!
//! Between hosts the bytes go through a socket. On one host they go through shared memory, and the
//! socket only wakes a process that sleeps and reports when the other process has ended. Where both
//! processes may read each other's memory, large blocks stay where they are, and the peer reads them there.

use super::process_memory::ProcessMemory;
use super::ring::{Reader, Writer};
use rustix::event::{PollFd, PollFlags};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;

/// Reads shorter than this are served from a buffer that reads so many bytes ahead.
const READ_AHEAD: usize = 16 << 10;

/// The size of a socket's send and receive buffers, where the system allows it.
const SOCKET_BUFFER: usize = 4 << 20;

/// One rank's end of the connection to a peer.
#[derive(Debug)]
pub(super) struct Link {
    socket: TcpStream,
    channel: Channel,
    /// The other process has closed the socket.
    peer_closed: bool,
}

#[derive(Debug)]
enum Channel {
    Socket {
        ahead: Vec<u8>,
        taken: usize,
    },
    Memory {
        writer: Writer,
        reader: Reader,
        /// The other process, if both may read each other's memory.
        peer: Option<ProcessMemory>,
    },
}

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

/// What a side that sends waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// It does not send.
    Nothing,
    /// Room for more bytes.
    Room,
    /// The peer's reading of the blocks that were lent to it.
    Taken,
}

impl Link {
    /// A link through a socket alone.
    pub(super) fn tcp(socket: TcpStream) -> io::Result<Self> {
        enlarge_buffers(&socket)?;
        let ahead = Vec::new();
        Self::new(socket, Channel::Socket { ahead, taken: 0 })
    }

    /// A link through shared memory; a byte on the socket wakes the other side.
    ///
    /// `peer` is the other process, if both may read each other's memory.
    pub(super) fn memory(
        socket: TcpStream,
        (writer, reader): (Writer, Reader),
        peer: Option<ProcessMemory>,
    ) -> io::Result<Self> {
        let channel = Channel::Memory {
            writer,
            reader,
            peer,
        };
        Self::new(socket, channel)
    }

    fn new(socket: TcpStream, channel: Channel) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let peer_closed = false;
        Ok(Self {
            socket,
            channel,
            peer_closed,
        })
    }

    /// Whether data carries checksums: it may be damaged on a network.
    pub(super) fn is_checked(&self) -> bool {
        matches!(self.channel, Channel::Socket { .. })
    }

    /// Whether the two processes read each other's memory.
    pub(super) fn reads_in_place(&self) -> bool {
        matches!(self.channel, Channel::Memory { peer: Some(_), .. })
    }

    /// Counts a block whose address was sent: it must not change until [`all_taken`](Self::all_taken).
    pub(super) fn lend(&mut self) {
        if let Channel::Memory { writer, .. } = &mut self.channel {
            writer.lend();
        }
    }

    /// Whether the peer has read all blocks that were lent to it.
    pub(super) fn all_taken(&self) -> io::Result<bool> {
        let Channel::Memory { writer, .. } = &self.channel else {
            return Ok(true);
        };
        let taken = writer.all_taken()?;
        if !taken && self.peer_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        Ok(taken)
    }

    /// Tells the peer that blocks which it has not read yet may change from here on.
    pub(super) fn revoke(&self) {
        if let Channel::Memory { writer, .. } = &self.channel
            && !matches!(writer.all_taken(), Ok(true))
        {
            writer.revoke();
        }
    }

    /// Reads a block that the peer has lent, where it is in the peer's memory.
    pub(super) fn take(&mut self, address: u64, into: &mut [u8]) -> io::Result<()> {
        let peer = match &self.channel {
            Channel::Memory {
                peer: Some(peer), ..
            } => *peer,
            _ => {
                let problem = "the address of a block, which this rank cannot read";
                return Err(io::Error::new(ErrorKind::InvalidData, problem));
            }
        };
        peer.read(address, into)?;
        // The system may give the number of a process that has ended to another one.
        self.drain_wakeups();
        if self.peer_closed {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Channel::Memory { reader, .. } = &mut self.channel {
            if !reader.take() {
                let problem = "it gave the collective up while its memory was read";
                return Err(io::Error::new(ErrorKind::ConnectionAborted, problem));
            }
            if reader.take_sleeper() {
                wake_peer(&self.socket);
            }
        }
        Ok(())
    }

    /// Sends as much of `parts` as there is room for; returns how many bytes that was.
    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.channel {
            Channel::Socket { .. } => or_zero((&self.socket).write_vectored(parts)),
            Channel::Memory { writer, .. } => {
                let mut sent = 0;
                for part in parts {
                    let n = writer.write(part)?;
                    sent += n;
                    if n < part.len() {
                        break;
                    }
                }
                if sent > 0 && writer.take_sleeper() {
                    wake_peer(&self.socket);
                }
                match sent {
                    0 if self.peer_closed => Err(ErrorKind::BrokenPipe.into()),
                    sent => Ok(sent),
                }
            }
        }
    }

    /// Receives what is available into `bytes`; returns how many bytes that was.
    pub(super) fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.channel {
            Channel::Socket { ahead, taken } => {
                if *taken == ahead.len() && bytes.len() < READ_AHEAD {
                    ahead.resize(READ_AHEAD, 0);
                    let read = read(&self.socket, ahead);
                    ahead.truncate(*read.as_ref().unwrap_or(&0));
                    *taken = 0;
                    read?;
                }
                if *taken == ahead.len() && bytes.len() >= READ_AHEAD {
                    return read(&self.socket, bytes);
                }
                let n = bytes.len().min(ahead.len() - *taken);
                bytes[..n].copy_from_slice(&ahead[*taken..*taken + n]);
                *taken += n;
                Ok(n)
            }
            Channel::Memory { reader, .. } => {
                let n = reader.read(bytes)?;
                if n > 0 && reader.take_sleeper() {
                    wake_peer(&self.socket);
                }
                match n {
                    0 if self.peer_closed => Err(ErrorKind::UnexpectedEof.into()),
                    n => Ok(n),
                }
            }
        }
    }

    /// Announces that this side is about to sleep; `false` if the link can move bytes already.
    pub(super) fn prepare_sleep(&self, receiving: bool, sending: Sending) -> io::Result<bool> {
        let Channel::Memory { writer, reader, .. } = &self.channel else {
            return Ok(true);
        };
        if receiving {
            reader.announce_sleep();
        }
        if sending != Sending::Nothing {
            writer.announce_sleep();
        }
        let ready = (receiving && reader.ready()? > 0)
            || match sending {
                Sending::Nothing => false,
                Sending::Room => writer.room()? > 0,
                Sending::Taken => writer.all_taken()?,
            };
        Ok(!ready && !self.peer_closed)
    }

    /// The events to poll for on the socket.
    pub(super) fn poll(&self, receiving: bool, sending: Sending) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        let memory = matches!(self.channel, Channel::Memory { .. });
        flags.set(PollFlags::IN, receiving || memory);
        flags.set(PollFlags::OUT, sending == Sending::Room && !memory);
        PollFd::new(&self.socket, flags)
    }

    /// Reads the wake-up bytes from the socket, and whether the peer has closed it.
    pub(super) fn drain_wakeups(&mut self) {
        if let Channel::Memory { .. } = self.channel {
            let mut bytes = [0; 64];
            loop {
                match (&self.socket).read(&mut bytes) {
                    Ok(1..) => {}
                    Err(e) if would_block(&e) => return,
                    Ok(0) | Err(_) => {
                        self.peer_closed = true;
                        return;
                    }
                }
            }
        }
    }
}

/// Sets socket buffers larger than a block, so that a collective of some ten KiB needs no second round
/// trip. Where the system allows less, its automatic growth is better than a small fixed size.
fn enlarge_buffers(socket: &TcpStream) -> io::Result<()> {
    let allowed = |name: &str| {
        let most = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?;
        most.trim().parse::<usize>().ok()
    };
    if allowed("wmem_max") >= Some(SOCKET_BUFFER) && allowed("rmem_max") >= Some(SOCKET_BUFFER) {
        let socket = socket2::SockRef::from(socket);
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    }
    Ok(())
}

/// Sends a byte that wakes the peer. Errors are ignored: a full socket holds wake-up bytes already, and a
/// closed one has no peer.
fn wake_peer(mut socket: &TcpStream) {
    let _ = socket.write(&[1]);
}

fn read(mut socket: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    match socket.read(bytes) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        other => or_zero(other),
    }
}

fn or_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if would_block(&e) => Ok(0),
        other => other,
    }
}

fn would_block(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
