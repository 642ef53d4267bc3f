//! The connection of two ranks: a stream of bytes both ways that never blocks.
//!
//! Between hosts the bytes go through a socket. On one host they go through shared memory, and
//! the socket only wakes a sleeper, and tells when the other process has ended.

use super::ring::{Reader, Writer};
use rustix::event::{PollFd, PollFlags};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;

/// Short reads from a socket take along what follows, up to so many bytes.
const EARLY: usize = 16 << 10;

/// What a socket may hold on its way, where the system allows it.
const ROOM: usize = 4 << 20;

/// One rank's end of the connection to a peer.
#[derive(Debug)]
pub(super) struct Link {
    socket: TcpStream,
    way: Way,
    /// The other process has closed the socket.
    ended: bool,
}

#[derive(Debug)]
enum Way {
    Socket { early: Vec<u8>, taken: usize },
    Memory(Writer, Reader),
}

impl Link {
    /// A link through a socket alone.
    pub(super) fn tcp(socket: TcpStream) -> io::Result<Self> {
        widen(&socket)?;
        let early = Vec::new();
        Self::new(socket, Way::Socket { early, taken: 0 })
    }

    /// A link through shared memory; the socket is its doorbell.
    pub(super) fn memory(socket: TcpStream, ends: (Writer, Reader)) -> io::Result<Self> {
        Self::new(socket, Way::Memory(ends.0, ends.1))
    }

    fn new(socket: TcpStream, way: Way) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let ended = false;
        Ok(Self { socket, way, ended })
    }

    /// Whether bytes may be damaged on their way.
    pub(super) fn is_checked(&self) -> bool {
        matches!(self.way, Way::Socket { .. })
    }

    /// Sends as much of `parts` as there is room for, and says how much that was.
    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.way {
            Way::Socket { .. } => or_nothing((&self.socket).write_vectored(parts)),
            Way::Memory(writer, _) => {
                let mut sent = 0;
                for part in parts {
                    let n = writer.write(part)?;
                    sent += n;
                    if n < part.len() {
                        break;
                    }
                }
                if sent > 0 && writer.must_ring() {
                    ring(&self.socket);
                }
                match sent {
                    0 if self.ended => Err(ErrorKind::BrokenPipe.into()),
                    sent => Ok(sent),
                }
            }
        }
    }

    /// Receives into `bytes` what is there, and says how much that was.
    pub(super) fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.way {
            Way::Socket { early, taken } => {
                if *taken == early.len() && bytes.len() < EARLY {
                    early.resize(EARLY, 0);
                    let read = read(&self.socket, early);
                    early.truncate(*read.as_ref().unwrap_or(&0));
                    *taken = 0;
                    read?;
                }
                if *taken == early.len() && bytes.len() >= EARLY {
                    return read(&self.socket, bytes);
                }
                let n = bytes.len().min(early.len() - *taken);
                bytes[..n].copy_from_slice(&early[*taken..*taken + n]);
                *taken += n;
                Ok(n)
            }
            Way::Memory(_, reader) => {
                let n = reader.read(bytes)?;
                if n > 0 && reader.must_ring() {
                    ring(&self.socket);
                }
                match n {
                    0 if self.ended => Err(ErrorKind::UnexpectedEof.into()),
                    n => Ok(n),
                }
            }
        }
    }

    /// Prepares to sleep until the link can go on; `false` if it can already.
    pub(super) fn doze(&self, receiving: bool, sending: bool) -> io::Result<bool> {
        let Way::Memory(writer, reader) = &self.way else {
            return Ok(true);
        };
        if receiving {
            reader.doze();
        }
        if sending {
            writer.doze();
        }
        let ready = (receiving && reader.ready()? > 0) || (sending && writer.room()? > 0);
        Ok(!ready && !self.ended)
    }

    /// What to wait for on the socket.
    pub(super) fn poll(&self, receiving: bool, sending: bool) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        let memory = matches!(self.way, Way::Memory(..));
        flags.set(PollFlags::IN, receiving || memory);
        flags.set(PollFlags::OUT, sending && !memory);
        PollFd::new(&self.socket, flags)
    }

    /// Hears the doorbell, or that nobody is left to ring it.
    pub(super) fn woken(&mut self) {
        if let Way::Memory(..) = self.way {
            let mut rings = [0; 64];
            match (&self.socket).read(&mut rings) {
                Ok(1..) => {}
                Err(e) if is_nothing(&e) => {}
                Ok(0) | Err(_) => self.ended = true,
            }
        }
    }
}

/// Gives a socket room for a whole block and more, so that a collective of some ten KiB needs no
/// second round trip. Where the system allows less, its own way of growing with the traffic is
/// better than a small fixed size.
fn widen(socket: &TcpStream) -> io::Result<()> {
    let allowed = |name: &str| {
        let most = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?;
        most.trim().parse::<usize>().ok()
    };
    if allowed("wmem_max") >= Some(ROOM) && allowed("rmem_max") >= Some(ROOM) {
        let socket = socket2::SockRef::from(socket);
        socket.set_send_buffer_size(ROOM)?;
        socket.set_recv_buffer_size(ROOM)?;
    }
    Ok(())
}

/// A bell that cannot be rung has been rung often enough, or nobody hears it any more.
fn ring(mut socket: &TcpStream) {
    let _ = socket.write(&[1]);
}

fn read(mut socket: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    match socket.read(bytes) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        other => or_nothing(other),
    }
}

fn or_nothing(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if is_nothing(&e) => Ok(0),
        other => other,
    }
}

fn is_nothing(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
