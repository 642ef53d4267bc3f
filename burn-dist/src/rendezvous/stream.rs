//! Messages over a socket: a length, then JSON.

#[cfg(any(test, fuzzing))]
use super::message::Message;
use super::message::{MAX_MESSAGE, MAX_UNPROVEN_MESSAGE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a message may take to write; a peer that reads nothing for so long is stuck or gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The receiving end of a connection.
#[derive(Debug)]
pub(crate) struct Inbox {
    socket: Arc<TcpStream>,
    /// What has arrived of the next message.
    buffer: Vec<u8>,
    /// The longest message that is accepted.
    longest: usize,
}

/// How long the other side of a connection has been silent.
///
/// Time in which this process was stopped itself, or had no core, does not count: what the other side
/// has sent meanwhile has not been read yet.
#[derive(Debug, Default)]
pub(crate) struct Silence(Duration);

impl Silence {
    /// Listens for so long, and notes whether there was something.
    pub(crate) fn listen<M: DeserializeOwned>(
        &mut self,
        inbox: &mut Inbox,
        patience: Duration,
    ) -> io::Result<Option<M>> {
        let since = Instant::now();
        let message = inbox.next(patience)?;
        match message {
            Some(_) => self.0 = Duration::ZERO,
            None => self.0 += since.elapsed().min(2 * patience),
        }
        Ok(message)
    }

    pub(crate) fn is_longer_than(&self, limit: Duration) -> bool {
        self.0 >= limit
    }
}

/// The sending end of a connection; clones share it, and messages of several threads do not mix.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    socket: Arc<TcpStream>,
    sending: Arc<Mutex<()>>,
}

/// Both ends of a connection.
pub(crate) fn split(socket: impl Into<Arc<TcpStream>>) -> io::Result<(Inbox, Outbox)> {
    let socket = socket.into();
    socket.set_nodelay(true)?;
    socket.set_nonblocking(false)?;
    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let outbox = Outbox {
        socket: socket.clone(),
        sending: Arc::default(),
    };
    let inbox = Inbox {
        socket,
        buffer: Vec::new(),
        longest: MAX_UNPROVEN_MESSAGE,
    };
    Ok((inbox, outbox))
}

impl Outbox {
    /// Sends a message.
    pub(crate) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MAX_MESSAGE {
            let problem = format!("a message of {} bytes, at most {MAX_MESSAGE}", text.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, problem));
        }
        let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
        bytes.extend(text);
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        (&*self.socket).write_all(&bytes)
    }

    /// Says that nothing more will be sent.
    pub(crate) fn close(&self) {
        // It may be closed already.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }
}

impl Inbox {
    /// Accepts messages of full length, now that the other side has proven the secret.
    pub(crate) fn trust(&mut self) {
        self.longest = MAX_MESSAGE;
    }

    /// The next message, or `None` if none is complete after `patience`.
    ///
    /// The end of the connection and anything that is not a message are errors.
    pub(crate) fn next<M: DeserializeOwned>(
        &mut self,
        patience: Duration,
    ) -> io::Result<Option<M>> {
        let until = Instant::now() + patience;
        loop {
            if let Some(message) = take(&mut self.buffer, self.longest)? {
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
    pub(crate) fn soon<M: DeserializeOwned>(&mut self, patience: Duration) -> io::Result<M> {
        self.next(patience)?
            .ok_or_else(|| ErrorKind::TimedOut.into())
    }
}

/// Takes the first message out of `buffer` if it is complete.
fn take<M: DeserializeOwned>(buffer: &mut Vec<u8>, longest: usize) -> io::Result<Option<M>> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > longest {
        let problem = format!("a message of {length} bytes, at most {longest}");
        return Err(io::Error::new(ErrorKind::InvalidData, problem));
    }
    let Some(text) = rest.get(..length) else {
        return Ok(None);
    };
    let message = serde_json::from_slice(text)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// Reads a stream that arrives in pieces of at most `piece` bytes as an [`Inbox`] does; returns its
/// messages, and the error at which it stopped.
#[cfg(any(test, fuzzing))]
pub(super) fn read(stream: &[u8], piece: usize) -> (Vec<Message>, Option<io::Error>) {
    let (mut buffer, mut messages) = (Vec::new(), Vec::new());
    for bytes in stream.chunks(piece.max(1)) {
        buffer.extend(bytes);
        loop {
            match take(&mut buffer, MAX_MESSAGE) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(
            buffer.len() < 4 + MAX_MESSAGE,
            "{} bytes wait",
            buffer.len()
        );
    }
    (messages, None)
}

/// What the fuzzer calls: a stream has the same messages however it is cut.
#[cfg(fuzzing)]
pub(crate) fn fuzz(stream: &[u8]) {
    let piece = usize::from(stream.first().copied().unwrap_or(0));
    let (whole, cut) = (read(stream, 4096), read(stream, piece));
    assert_eq!(whole.0, cut.0);
    assert_eq!(whole.1.is_some(), cut.1.is_some());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::message::{Answer, Request};
    use super::*;
    use crate::error::Error;
    use proptest::prelude::*;

    fn framed(text: &[u8]) -> Vec<u8> {
        [&(text.len() as u32).to_le_bytes(), text].concat()
    }

    fn stream(messages: &[Message]) -> Vec<u8> {
        let framed = messages
            .iter()
            .map(|m| framed(&serde_json::to_vec(m).unwrap()));
        framed.collect::<Vec<_>>().concat()
    }

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let (key, value) = (".{0,12}", ".{0,40}");
        let message = prop_oneof![
            Just(Message::Welcome),
            Just(Message::Bye),
            value.prop_map(Message::Beat),
            (key, value).prop_map(|(a, b)| Message::Challenge(a, b)),
            (value, any::<bool>()).prop_map(|(problem, again)| Message::Refused { problem, again }),
            (any::<usize>(), value).prop_map(|(peer, why)| Message::Suspect { peer, why }),
            value.prop_map(|text| Message::Fault(Error::user(text))),
            (key, value).prop_map(|(key, value)| Message::Ask(Request::Set { key, value })),
            (key, any::<u64>())
                .prop_map(|(key, millis)| Message::Ask(Request::Wait { key, millis })),
            any::<Option<String>>().prop_map(|value| Message::Answer(Answer::Value(value))),
            any::<Vec<usize>>().prop_map(|ranks| Message::Answer(Answer::Missing(ranks))),
        ];
        proptest::collection::vec(message, 0..5)
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(messages in messages(), piece in 1usize..300) {
            let stream = stream(&messages);
            for piece in [piece, 1, 4096] {
                let (found, error) = read(&stream, piece);
                prop_assert!(error.is_none(), "{error:?}");
                prop_assert_eq!(&found, &messages);
            }
        }

        #[test]
        fn a_stream_that_ends_anywhere_gives_the_messages_before(messages in messages()) {
            let stream = stream(&messages);
            for end in 0..stream.len() {
                let (found, error) = read(&stream[..end], 4096);
                prop_assert!(error.is_none() && messages.starts_with(&found));
                prop_assert!(found.len() < messages.len());
            }
        }

        #[test]
        fn no_bytes_break_it(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            text in ".{0,80}",
            messages in messages(),
            at in any::<proptest::sample::Index>(),
            change in 1u8..,
        ) {
            read(&bytes, 7);
            // A length that fits, and behind it whatever it is.
            read(&framed(&bytes), 7);
            read(&framed(text.as_bytes()), 7);
            let mut stream = stream(&messages);
            if !stream.is_empty() {
                let at = at.index(stream.len());
                stream[at] ^= change;
                read(&stream, 7);
            }
        }

        #[test]
        fn a_length_beyond_the_limit_is_refused_at_once(more in 1..u32::MAX - MAX_MESSAGE as u32) {
            let mut buffer = (MAX_MESSAGE as u32 + more).to_le_bytes().to_vec();
            let error = take::<Message>(&mut buffer, MAX_MESSAGE).unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::InvalidData);
            prop_assert!(buffer.capacity() < 64);
        }
    }

    #[test]
    fn nothing_is_kept_free_for_what_is_only_announced() {
        let mut buffer = (MAX_MESSAGE as u32).to_le_bytes().to_vec();
        buffer.push(b'"');
        assert!(take::<Message>(&mut buffer, MAX_MESSAGE).unwrap().is_none());
        assert!(buffer.capacity() < 64);
        // The longest message there can be, and one nested as deep as that allows.
        let quotes = 2 + r#"{"Beat":}"#.len();
        let longest = Message::Beat("x".repeat(MAX_MESSAGE - quotes));
        let (found, error) = read(&stream(std::slice::from_ref(&longest)), 4096);
        assert!(found == [longest] && error.is_none());
        let (found, error) = read(&framed(&vec![b'['; MAX_MESSAGE]), 4096);
        assert!(found.is_empty() && error.is_some());
    }
}
