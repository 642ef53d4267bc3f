//! The thread that carries the bytes of this process to other nodes.

use super::bucket::Moment;
use super::connection::Connection;
use super::nodes::{Nodes, announce};
use super::pace::Pace;
use crate::comm::mesh::options::Options;
use crate::error::{Error, Result};
use crate::rendezvous::Seat;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that are read at once from another node.
const BUFFER: usize = 64 << 10;
/// How long an end waits for the thread after a failure of the world.
const STOP_WAIT: Duration = Duration::from_secs(1);
/// How often an end that waits for the last bytes looks for a failure of the world.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The thread's states: it serves; it ends once everything was delivered; it ends at once.
const SERVES: u8 = 0;
const DELIVERS: u8 = 1;
const STOPS: u8 = 2;

/// The link from this process's node to the others.
#[derive(Debug)]
pub(crate) struct Shaper {
    seat: Arc<Seat>,
    nodes: Nodes,
    shared: Arc<Shared>,
    new: Mutex<Sender<Connection>>,
    /// A byte on it wakes the thread.
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
    /// What is written to the log at the end.
    name: String,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    /// Bytes that were sent to other nodes.
    sent: AtomicU64,
}

impl Shaper {
    /// Agrees with the other ranks on the nodes and their link, and starts the thread; `None` without a link.
    /// Collective.
    pub(crate) fn join(seat: &Arc<Seat>, options: &Options) -> Result<Option<Arc<Self>>> {
        let joined = announce(seat, options).and_then(|()| {
            let Some(link) = options.link else {
                return Ok(None);
            };
            let nodes = Nodes::agree(seat, options, link)?;
            let pace = Pace::new(link, nodes.buckets(seat)?);
            let name = format!("rank {}, link {link}", seat.terms().rank);
            let started = Self::start(seat.clone(), nodes, pace, name);
            let started = started.map_err(|e| Error::config("link", "a thread for it", e))?;
            Ok(Some(Arc::new(started)))
        });
        joined.map_err(|error| seat.abort(error))
    }

    fn start(seat: Arc<Seat>, nodes: Nodes, pace: Pace, name: String) -> io::Result<Self> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (new, connections) = channel();
        let shared = Arc::<Shared>::default();
        let carrier = Carrier {
            pace,
            shared: shared.clone(),
            new: connections,
            woken,
            connections: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("rank {} link", seat.terms().rank))
            .spawn(move || carrier.run())?;
        Ok(Self {
            seat,
            nodes,
            shared,
            new: Mutex::new(new),
            waker,
            thread: Some(thread),
            name,
        })
    }

    /// Whether a rank is on another node.
    pub(crate) fn is_far(&self, rank: usize) -> bool {
        self.nodes.other(rank).is_some()
    }

    /// The engine's socket for a connection to a rank: where that is on another node, one behind the link.
    pub(crate) fn carry(&self, rank: usize, far: TcpStream) -> io::Result<TcpStream> {
        let Some(node) = self.nodes.other(rank) else {
            return Ok(far);
        };
        far.set_nonblocking(true)?;
        let (engine, near) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |_| io::Error::other("the thread of the link has ended");
        new.send(Connection::new(near, far, node)).map_err(gone)?;
        self.wake();
        // Both are streams of bytes with the same calls, and the engine makes no others.
        Ok(TcpStream::from(OwnedFd::from(engine)))
    }

    /// Errors are ignored: a full socket wakes the thread, and a closed one has none.
    fn wake(&self) {
        let _ = (&self.waker).write(&[1]);
    }

    fn end(&self, state: u8) {
        self.shared.state.fetch_max(state, Ordering::Relaxed);
        self.wake();
    }
}

impl Drop for Shaper {
    /// Waits until all that was sent has arrived, or the world has failed.
    fn drop(&mut self) {
        self.end(DELIVERS);
        let Some(thread) = self.thread.take() else {
            return;
        };
        let mut failed = None;
        while !thread.is_finished() {
            if self.seat.fault().is_some() {
                self.end(STOPS);
                let since = *failed.get_or_insert_with(Instant::now);
                // It waits for a process of this node that was stopped while it held the bucket.
                if since.elapsed() > STOP_WAIT {
                    return log::warn!("{}: its thread is left behind", self.name);
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
        if thread.join().is_err() {
            log::error!("{}: its thread panicked", self.name);
        }
        let sent = self.shared.sent.load(Ordering::Relaxed);
        log::debug!("{}: {sent} bytes sent to other nodes", self.name);
    }
}

/// What the thread works with.
#[derive(Debug)]
struct Carrier {
    pace: Pace,
    shared: Arc<Shared>,
    new: Receiver<Connection>,
    woken: UnixStream,
    connections: Vec<Connection>,
}

impl Carrier {
    fn run(mut self) {
        let mut buffer = vec![0; BUFFER.max(self.pace.piece())];
        loop {
            // Read before the connections, so that none of them is missed at the end.
            let state = self.shared.state.load(Ordering::Relaxed);
            self.drain_wakeups();
            self.connections.extend(self.new.try_iter());
            self.advance(&mut buffer);
            match state {
                SERVES => {}
                DELIVERS if self.connections.is_empty() => return,
                DELIVERS => {}
                _ => return,
            }
            self.wait();
        }
    }

    /// Moves what can be moved on all connections, and drops those that have ended.
    fn advance(&mut self, buffer: &mut [u8]) {
        let (pace, shared) = (&self.pace, &self.shared);
        self.connections
            .retain_mut(|connection| match connection.advance(pace, buffer) {
                Ok(Some(sent)) => {
                    shared.sent.fetch_add(sent, Ordering::Relaxed);
                    true
                }
                Ok(None) => false,
                Err(e) => {
                    log::error!(
                        "a connection to another node is closed, its link cannot be timed: {e}"
                    );
                    false
                }
            });
        // The connection that comes first gets no more of the link than the others.
        if !self.connections.is_empty() {
            self.connections.rotate_left(1);
        }
    }

    /// Sleeps until a socket is ready, or the next bytes arrive.
    fn wait(&self) {
        let now = Moment::now();
        let mut polled = vec![PollFd::new(&self.woken, PollFlags::IN)];
        polled.extend(self.connections.iter().flat_map(|c| c.poll(now)));
        let next = self.connections.iter().filter_map(|c| c.next(now)).min();
        let timeout = next.map(|at| at.since(now));
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        // An interrupted poll only ends early.
        let _ = poll(&mut polled, timeout.as_ref());
    }

    fn drain_wakeups(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.woken).read(&mut bytes), Ok(1..)) {}
    }
}
