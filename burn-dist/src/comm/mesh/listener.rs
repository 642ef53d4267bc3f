//! A rank's listener while its group is being connected: accepts connections, and passes on those that
//! present the token.
//!
//! The hello messages of all connections are read concurrently, so a silent or slow one delays no other.

use crate::rendezvous::TurnedAway;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long a connection may take to send its hello.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a rank that connects its group checks for failures and deadlines.
pub(super) const ACCEPT_POLL_EVERY: Duration = Duration::from_millis(50);
/// Connections that may be open at once without a hello, beyond one per rank. Beyond that the oldest is
/// closed: a rank sends its hello immediately after it connects.
const MAX_UNAUTHENTICATED: usize = 64;
/// Bytes of the token; a hello is the token, the sender's rank, and whether it can share memory.
pub(super) const TOKEN: usize = 32;
const HELLO: usize = TOKEN + 9;

/// A listener, and the connections whose hello is incomplete.
#[derive(Debug)]
pub(super) struct PeerListener<'a> {
    listener: &'a TcpListener,
    token: &'a str,
    /// The prefix of warnings.
    name: String,
    pending: VecDeque<Unauthenticated>,
    /// How many connections without a hello may be open.
    capacity: usize,
    turned_away: TurnedAway,
}

#[derive(Debug)]
struct Unauthenticated {
    socket: TcpStream,
    from: SocketAddr,
    hello: Vec<u8>,
    until: Instant,
}

/// A connection that has presented the token.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) socket: TcpStream,
    pub(super) from: SocketAddr,
    /// The rank that it claims to be.
    pub(super) rank: u64,
    pub(super) shares_memory: bool,
}

impl<'a> PeerListener<'a> {
    /// Expects `ranks` connections that present `token`; `listener` is non-blocking.
    pub(super) fn new(
        listener: &'a TcpListener,
        token: &'a str,
        rank: usize,
        ranks: usize,
    ) -> Self {
        Self {
            listener,
            token,
            name: format!("rank {rank}"),
            pending: VecDeque::new(),
            capacity: ranks + MAX_UNAUTHENTICATED,
            turned_away: TurnedAway::default(),
        }
    }

    /// The next connection that has presented the token; `None` if there is none within
    /// `ACCEPT_POLL_EVERY`.
    pub(super) fn next(&mut self) -> Option<Authenticated> {
        if self.wait() {
            match self.listener.accept() {
                Ok((socket, from)) => self.admit(socket, from),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // Perhaps out of file descriptors: waits before the next attempt.
                Err(_) => std::thread::sleep(ACCEPT_POLL_EVERY),
            }
        }
        for _ in 0..self.pending.len() {
            let mut caller = self.pending.pop_front()?;
            match caller.read_hello(self.token) {
                Ok(None) => self.pending.push_back(caller),
                Ok(Some((rank, shares_memory))) => {
                    let Unauthenticated { socket, from, .. } = caller;
                    return Some(Authenticated {
                        socket,
                        from,
                        rank,
                        shares_memory,
                    });
                }
                Err(e) => self.reject(caller.from, &e),
            }
        }
        None
    }

    /// Logs a warning about a connection that is closed.
    pub(super) fn reject(&self, from: SocketAddr, why: &io::Error) {
        let text = || format!("a caller from {from}: {why}");
        self.turned_away.warn(&self.name, text);
    }

    /// Waits for data or new connections; returns whether there is a new connection.
    fn wait(&self) -> bool {
        let mut all = vec![PollFd::new(self.listener, PollFlags::IN)];
        let sockets = self.pending.iter().map(|caller| &caller.socket);
        all.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::IN)));
        let timeout = Timespec::try_from(ACCEPT_POLL_EVERY).ok();
        // An error is treated as a timeout: the next call polls again.
        let any = matches!(poll(&mut all, timeout.as_ref()), Ok(1..));
        any && all
            .first()
            .is_some_and(|socket| !socket.revents().is_empty())
    }

    fn admit(&mut self, socket: TcpStream, from: SocketAddr) {
        if let Err(e) = socket.set_nonblocking(true) {
            return self.reject(from, &e);
        }
        self.pending.push_back(Unauthenticated {
            socket,
            from,
            hello: Vec::new(),
            until: Instant::now() + HANDSHAKE_TIMEOUT,
        });
        if self.pending.len() > self.capacity
            && let Some(longest) = self.pending.pop_front()
        {
            let why = "others came while it took its time";
            self.reject(longest.from, &io::Error::other(why));
        }
    }
}

impl Drop for PeerListener<'_> {
    fn drop(&mut self) {
        self.turned_away.close(&self.name);
    }
}

impl Unauthenticated {
    /// The sender's rank and whether it can share memory, once the hello is complete and its token right.
    fn read_hello(&mut self, token: &str) -> io::Result<Option<(u64, bool)>> {
        while self.hello.len() < HELLO {
            let mut bytes = [0; HELLO];
            let room = HELLO - self.hello.len();
            match self.socket.read(&mut bytes[..room]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.hello.extend(&bytes[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return if Instant::now() < self.until {
                        Ok(None)
                    } else {
                        Err(ErrorKind::TimedOut.into())
                    };
                }
                Err(e) => return Err(e),
            }
        }
        let (token_sent, rest) = self.hello.split_at(TOKEN);
        // In constant time, so that the time tells nothing of the token.
        let differs = token_sent.iter().zip(token.as_bytes());
        if differs.fold(0, |all, (a, b)| all | (a ^ b)) != 0 {
            let what = "it does not know the token";
            return Err(io::Error::new(ErrorKind::PermissionDenied, what));
        }
        let (rank, memory) = rest.split_at(8);
        let rank = rank.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        self.socket.set_nonblocking(false)?;
        Ok(Some((rank, memory == [1])))
    }
}
