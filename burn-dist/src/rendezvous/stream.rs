//! Messages over a socket: a length, then JSON.

use super::message::{LONGEST, Message};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A message that cannot be written in this time finds a peer that is stuck or gone.
const WRITING: Duration = Duration::from_secs(5);

/// The receiving end of a connection.
#[derive(Debug)]
pub(super) struct Inbox {
    socket: Arc<TcpStream>,
    /// What has arrived of the next message.
    buffer: Vec<u8>,
}

/// How long the other side of a connection has been silent.
///
/// Time in which this process stood still itself, stopped or without a core, does not count: what
/// the other side said meanwhile has not been read yet.
#[derive(Debug, Default)]
pub(super) struct Silence(Duration);

impl Silence {
    /// Listens for so long, and notes whether there was something.
    pub(super) fn listen(
        &mut self,
        inbox: &mut Inbox,
        patience: Duration,
    ) -> io::Result<Option<Message>> {
        let since = Instant::now();
        let message = inbox.next(patience)?;
        match message {
            Some(_) => self.0 = Duration::ZERO,
            None => self.0 += since.elapsed().min(2 * patience),
        }
        Ok(message)
    }

    pub(super) fn is_longer_than(&self, limit: Duration) -> bool {
        self.0 >= limit
    }
}

/// The sending end of a connection; clones share it, and messages of several threads do not mix.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    socket: Arc<TcpStream>,
    turn: Arc<Mutex<()>>,
}

/// Both ends of a connection.
pub(super) fn split(socket: TcpStream) -> io::Result<(Inbox, Outbox)> {
    socket.set_nodelay(true)?;
    socket.set_nonblocking(false)?;
    socket.set_write_timeout(Some(WRITING))?;
    let socket = Arc::new(socket);
    let outbox = Outbox {
        socket: socket.clone(),
        turn: Arc::default(),
    };
    let buffer = Vec::new();
    Ok((Inbox { socket, buffer }, outbox))
}

impl Outbox {
    /// Sends a message.
    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > LONGEST {
            let problem = format!("a message of {} bytes, at most {LONGEST}", text.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, problem));
        }
        let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
        bytes.extend(text);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        (&*self.socket).write_all(&bytes)
    }

    /// Says that nothing more will be sent.
    pub(super) fn close(&self) {
        // It may be closed already.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }
}

impl Inbox {
    /// The next message, or `None` if none is complete after `patience`.
    ///
    /// The end of the connection and anything that is not a message are errors.
    pub(super) fn next(&mut self, patience: Duration) -> io::Result<Option<Message>> {
        let until = Instant::now() + patience;
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                return Ok(Some(message));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4096];
            match (&*self.socket).read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend(&bytes[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The next message, which must come within `patience`.
    pub(super) fn soon(&mut self, patience: Duration) -> io::Result<Message> {
        self.next(patience)?
            .ok_or_else(|| ErrorKind::TimedOut.into())
    }
}

/// Takes the first message out of `buffer` if it is complete.
pub(crate) fn take(buffer: &mut Vec<u8>) -> io::Result<Option<Message>> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > LONGEST {
        let problem = format!("a message of {length} bytes, at most {LONGEST}");
        return Err(io::Error::new(ErrorKind::InvalidData, problem));
    }
    let Some(text) = rest.get(..length) else {
        return Ok(None);
    };
    let message = serde_json::from_slice(text)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}
