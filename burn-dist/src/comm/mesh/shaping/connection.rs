//! One connection to a rank of another node, between the engine and the socket.

use super::bucket::Moment;
use super::delay_line::DelayLine;
use super::pace::Pace;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The most bytes of one connection that are on their way; its sender waits beyond that.
const MOST_ON_THE_WAY: usize = 256 << 20;
/// The most pieces that are taken from one engine's socket before other connections have their turn.
const PIECES_A_TURN: usize = 16;
/// How long a connection that has delivered everything waits for the other side to take the last bytes.
const LINGER: Duration = Duration::from_secs(2);

/// One connection to a rank of another node.
#[derive(Debug)]
pub(super) struct Connection {
    /// To the engine.
    near: UnixStream,
    /// To the other node.
    far: TcpStream,
    /// The other node's number.
    node: usize,
    line: DelayLine,
    /// Whether the engine may send more.
    near_open: bool,
    /// No piece is taken from the engine before.
    next_piece: Moment,
    /// Whether the socket takes no more for the moment.
    far_full: bool,
    /// When everything was delivered, and the other side told that nothing follows.
    ended: Option<Moment>,
    /// What has come from the other node, and how many bytes of it the engine has.
    come: Vec<u8>,
    taken: usize,
    /// Whether the other side may send more.
    far_open: bool,
}

impl Connection {
    /// Both sockets are non-blocking.
    pub(super) fn new(near: UnixStream, far: TcpStream, node: usize) -> Self {
        Self {
            near,
            far,
            node,
            line: DelayLine::default(),
            near_open: true,
            next_piece: Moment::now(),
            far_full: false,
            ended: None,
            come: Vec::new(),
            taken: 0,
            far_open: true,
        }
    }

    /// Moves what can be moved now; returns how many bytes it has sent, and `None` once the connection has ended.
    pub(super) fn advance(&mut self, pace: &Pace, buffer: &mut [u8]) -> io::Result<Option<u64>> {
        let sent = self.take_from_engine(pace, buffer)?;
        let now = Moment::now();
        match self.line.deliver(now, &self.far) {
            Ok(full) => self.far_full = full,
            // The other side takes nothing more; what it has sent before is still passed on.
            Err(_) => {
                self.line = DelayLine::default();
                (self.near_open, self.far_full) = (false, false);
            }
        }
        if !self.near_open && self.line.is_empty() && self.ended.is_none() {
            // It may be closed already.
            let _ = self.far.shutdown(Shutdown::Write);
            self.ended = Some(now);
        }
        self.pass_to_engine(buffer)?;
        let over = self.ended.is_some_and(|at| now.since(at) > LINGER);
        // The other side closes when it has left or has died: it takes nothing more.
        let closed = !self.far_open && self.taken == self.come.len();
        Ok((!over && !closed).then_some(sent))
    }

    /// Whether a piece may be taken from the engine, as far as this connection is concerned.
    fn takes(&self) -> bool {
        self.near_open && self.line.len() < MOST_ON_THE_WAY
    }

    fn take_from_engine(&mut self, pace: &Pace, buffer: &mut [u8]) -> io::Result<u64> {
        let mut sent = 0;
        for _ in 0..PIECES_A_TURN {
            if !self.takes() || self.next_piece > Moment::now() {
                break;
            }
            match (&self.near).read(&mut buffer[..pace.piece()]) {
                Ok(n @ 1..) => {
                    let times = pace.send(self.node, n)?;
                    self.line.push(buffer[..n].to_vec(), times.arrival);
                    self.next_piece = times.next;
                    sent += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Its end is no error: what it has sent before is still delivered.
                Ok(0) | Err(_) => self.near_open = false,
            }
        }
        Ok(sent)
    }

    fn pass_to_engine(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            while self.taken < self.come.len() {
                match (&self.near).write(&self.come[self.taken..]) {
                    Ok(n) => self.taken += n,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    // Nobody is there to read it.
                    Err(_) => self.taken = self.come.len(),
                }
            }
            if !self.far_open {
                return Ok(());
            }
            match (&self.far).read(buffer) {
                Ok(n @ 1..) => {
                    self.come.clear();
                    self.come.extend(&buffer[..n]);
                    self.taken = 0;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => self.far_open = false,
            }
        }
    }

    /// The sockets to wait for.
    pub(super) fn poll(&self, now: Moment) -> impl Iterator<Item = PollFd<'_>> {
        let waits = self.taken < self.come.len();
        let (mut near, mut far) = (PollFlags::empty(), PollFlags::empty());
        near.set(PollFlags::IN, self.takes() && self.next_piece <= now);
        near.set(PollFlags::OUT, waits);
        far.set(PollFlags::IN, self.far_open && !waits);
        far.set(PollFlags::OUT, self.far_full);
        // A closed socket is reported whatever is asked for, so one that is not asked for is left out.
        let near = (!near.is_empty()).then(|| PollFd::new(&self.near, near));
        let far = (!far.is_empty()).then(|| PollFd::new(&self.far, far));
        near.into_iter().chain(far)
    }

    /// When there is something to do whatever the sockets say.
    pub(super) fn next(&self, now: Moment) -> Option<Moment> {
        let piece = self.takes().then_some(self.next_piece);
        let piece = piece.filter(|at| *at > now);
        let arrival = self.line.next_arrival().filter(|_| !self.far_full);
        let over = self.ended.map(|at| at.after(LINGER));
        piece.into_iter().chain(arrival).chain(over).min()
    }
}
