//! The door of a rank while its group is being connected: who calls, and who of them belongs here.
//!
//! Callers are heard side by side. One that says nothing, or says it slowly, holds up nobody.

use crate::rendezvous::TurnedAway;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long a caller may take to introduce itself.
pub(super) const MANNERS: Duration = Duration::from_secs(2);
pub(super) const GLANCE: Duration = Duration::from_millis(50);
/// Callers that may be here at once without having introduced themselves, beyond one per rank: the
/// one that has been here for longest makes room for the next, as ranks do so at once.
const STRANGERS: usize = 64;
/// The token, the caller's rank, and whether it can share memory.
pub(super) const TOKEN: usize = 32;
const HELLO: usize = TOKEN + 9;

/// A listener, and those that have called.
#[derive(Debug)]
pub(super) struct Door<'a> {
    listener: &'a TcpListener,
    token: &'a str,
    /// What warnings begin with.
    name: String,
    callers: VecDeque<Caller>,
    /// Callers that have room.
    most: usize,
    turned_away: TurnedAway,
}

#[derive(Debug)]
struct Caller {
    socket: TcpStream,
    from: SocketAddr,
    hello: Vec<u8>,
    until: Instant,
}

/// A caller that knows the token.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) socket: TcpStream,
    pub(super) from: SocketAddr,
    /// Which rank it says it is.
    pub(super) rank: u64,
    pub(super) shares_memory: bool,
}

impl<'a> Door<'a> {
    /// So many `ranks` will call, which know `token`; the listener does not block.
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
            callers: VecDeque::new(),
            most: ranks + STRANGERS,
            turned_away: TurnedAway::default(),
        }
    }

    /// A caller that knows the token, or `None` if there is none for a moment.
    pub(super) fn next(&mut self) -> Option<Known> {
        let knocked = self.wait();
        if knocked {
            match self.listener.accept() {
                Ok((socket, from)) => self.let_in(socket, from),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // Out of files, perhaps: the next look is not to be at once.
                Err(_) => std::thread::sleep(GLANCE),
            }
        }
        for _ in 0..self.callers.len() {
            let mut caller = self.callers.pop_front()?;
            match caller.listen(self.token) {
                Ok(None) => self.callers.push_back(caller),
                Ok(Some((rank, shares_memory))) => {
                    let Caller { socket, from, .. } = caller;
                    return Some(Known {
                        socket,
                        from,
                        rank,
                        shares_memory,
                    });
                }
                Err(e) => self.turn_away(caller.from, &e),
            }
        }
        None
    }

    /// Warns of a caller with which nothing can be done.
    pub(super) fn turn_away(&self, from: SocketAddr, why: &io::Error) {
        let words = || format!("a caller from {from}: {why}");
        self.turned_away.warn(&self.name, words);
    }

    /// Waits a moment for words or knocks; says whether somebody knocked.
    fn wait(&self) -> bool {
        let mut all = vec![PollFd::new(self.listener, PollFlags::IN)];
        let sockets = self.callers.iter().map(|caller| &caller.socket);
        all.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::IN)));
        let glance = Timespec::try_from(GLANCE).ok();
        // After an error the next look is as good.
        let any = matches!(poll(&mut all, glance.as_ref()), Ok(1..));
        any && all.first().is_some_and(|door| !door.revents().is_empty())
    }

    fn let_in(&mut self, socket: TcpStream, from: SocketAddr) {
        if let Err(e) = socket.set_nonblocking(true) {
            return self.turn_away(from, &e);
        }
        self.callers.push_back(Caller {
            socket,
            from,
            hello: Vec::new(),
            until: Instant::now() + MANNERS,
        });
        if self.callers.len() > self.most
            && let Some(longest) = self.callers.pop_front()
        {
            let why = "others came while it took its time";
            self.turn_away(longest.from, &io::Error::other(why));
        }
    }
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        self.turned_away.close(&self.name);
    }
}

impl Caller {
    /// Which rank this is and whether it can share memory, if it has said it and knows the token.
    fn listen(&mut self, token: &str) -> io::Result<Option<(u64, bool)>> {
        while self.hello.len() < HELLO {
            let mut bytes = [0; HELLO];
            let room = HELLO - self.hello.len();
            match self.socket.read(&mut bytes[..room]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.hello.extend(&bytes[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return match Instant::now() < self.until {
                        true => Ok(None),
                        false => Err(ErrorKind::TimedOut.into()),
                    };
                }
                Err(e) => return Err(e),
            }
        }
        let (said, rest) = self.hello.split_at(TOKEN);
        // As long for a wrong one as for a right one.
        let differs = said.iter().zip(token.as_bytes());
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
