//! Rank 0's side: the book of seats, values and failures.

use super::guests;
use super::message::{Hello, Message};
use super::secret::Secret;
use super::stream::Outbox;
use super::terms::Terms;
use super::words::TurnedAway;
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the door is looked at for the order to close.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a server that closes waits for those it is still talking to.
const FAREWELL: Duration = Duration::from_secs(1);
/// Callers that have not proven anything yet and may be here at once, beyond two per rank: the one
/// that has been here for longest makes room for the next, as ranks prove at once what they have to.
const STRANGERS: usize = 64;

/// The rendezvous of one world; dropping it closes it.
#[derive(Debug)]
pub struct Server {
    book: Arc<Book>,
    port: u16,
    door: Option<JoinHandle<()>>,
}

/// What all connections of the server share.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) world: usize,
    pub(super) attempt: usize,
    pub(super) secret: Secret,
    pub(super) heartbeat: Duration,
    pub(super) address: String,
    pub(super) turned_away: TurnedAway,
    pages: Mutex<Pages>,
    turned: Condvar,
    closing: AtomicBool,
    connections: AtomicUsize,
    strangers: Mutex<VecDeque<Arc<TcpStream>>>,
}

/// What changes while a world lives.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) seats: Vec<Guest>,
    pub(super) values: HashMap<String, String>,
    pub(super) barriers: HashMap<String, Barrier>,
    /// Where ranks that are done wait for the rest.
    pub(super) leaving: Vec<Outbox>,
    pub(super) fault: Option<Error>,
}

/// Who sits in a seat.
#[derive(Debug, Clone, Default)]
pub(super) enum Guest {
    /// Nobody yet.
    #[default]
    Awaited,
    /// A rank, and what it was last seen doing.
    Here {
        who: String,
        did: String,
        outbox: Outbox,
    },
    /// Nobody any more: the rank has said goodbye.
    Left,
    /// Nobody any more: the connection is gone.
    Gone,
}

/// Ranks that wait for all others.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    /// How often all have come.
    pub(super) round: u64,
    pub(super) here: BTreeSet<usize>,
}

impl Server {
    /// Listens where `terms` say that rank 0 does; port 0 takes any free one.
    ///
    /// # Errors
    /// [`Error::Config`] if the address is not this host's, or the port is in use.
    pub fn start(terms: &Terms) -> Result<Self> {
        let Terms { master, port, .. } = terms;
        let asked = format!("{master}:{port}");
        let listener = on_first(*port..=terms.last_port(), |port| listen(terms, port));
        let listener = listener.map_err(|e| {
            let what = format!("the address on which rank 0 listens, {asked}");
            let expected = "an address of this host with a free port (another job may have taken \
                            it: choose another --master-port)";
            Error::config(what, expected, e)
        })?;
        let local = listener
            .local_addr()
            .map_err(|e| Error::config("listener", "an address", e))?;
        let book = Arc::new(Book {
            world: terms.world,
            attempt: terms.attempt,
            secret: terms.secret.clone(),
            heartbeat: terms.heartbeat,
            address: format!("{master}:{}", local.port()),
            turned_away: TurnedAway::default(),
            pages: Mutex::new(Pages {
                seats: vec![Guest::Awaited; terms.world],
                ..Pages::default()
            }),
            turned: Condvar::new(),
            closing: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            strangers: Mutex::default(),
        });
        let opened = book.clone();
        let door = std::thread::Builder::new()
            .name("rendezvous".into())
            .spawn(move || open_door(&listener, &opened))
            .map_err(|e| Error::config("rendezvous", "a new thread", e))?;
        Ok(Self {
            book,
            port: local.port(),
            door: Some(door),
        })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.book.closing.store(true, Ordering::Relaxed);
        self.book.turn(|_| ());
        if let Some(door) = self.door.take() {
            let _ = door.join();
        }
        // What was being said to ranks is said to the end.
        let until = Instant::now() + FAREWELL;
        while self.book.connections.load(Ordering::Acquire) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.book.turned_away.close(guests::DOOR);
    }
}

impl Book {
    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something and wakes those who wait for changes.
    pub(super) fn turn<T>(&self, change: impl FnOnce(&mut Pages) -> T) -> T {
        let result = change(&mut self.pages());
        self.turned.notify_all();
        result
    }

    /// Waits until `ready` gives something, but no longer than `patience`.
    pub(super) fn wait<T>(
        &self,
        patience: Duration,
        mut ready: impl FnMut(&mut Pages) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + patience;
        let mut pages = self.pages();
        loop {
            if let Some(result) = ready(&mut pages) {
                return Some(result);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_closing() {
                return None;
            }
            let woken = self.turned.wait_timeout(pages, left);
            pages = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Notes why the world is broken, unless it is already, and tells every rank.
    pub(super) fn fail(&self, error: Error) {
        let first = self.turn(|pages| match pages.fault {
            Some(_) => false,
            None => {
                pages.fault = Some(error.clone());
                true
            }
        });
        if first {
            log::debug!("the world is broken: {error}");
            self.tell(&Message::Fault(error));
        }
    }

    /// Sends a message to every rank that is here.
    pub(super) fn tell(&self, message: &Message) {
        let outboxes: Vec<Outbox> = {
            let pages = self.pages();
            let here = pages.seats.iter().filter_map(|guest| match guest {
                Guest::Here { outbox, .. } => Some(outbox),
                _ => None,
            });
            here.chain(&pages.leaving).cloned().collect()
        };
        for outbox in outboxes {
            // One that cannot be reached is found out by its own connection.
            let _ = outbox.send(message);
        }
    }

    /// Notes a caller that has to prove something, and sends away the one that has had longest for it
    /// if there are too many.
    fn await_proof(&self, socket: &Arc<TcpStream>) {
        let mut strangers = self.strangers();
        strangers.push_back(socket.clone());
        if strangers.len() > 2 * self.world + STRANGERS
            && let Some(longest) = strangers.pop_front()
        {
            // It may have gone by itself.
            let _ = longest.shutdown(Shutdown::Both);
        }
    }

    /// Notes that a caller has proven who it is, or is gone; `false` if it has been sent away before.
    pub(super) fn has_proven(&self, socket: &Arc<TcpStream>) -> bool {
        let mut strangers = self.strangers();
        let at = strangers.iter().position(|s| Arc::ptr_eq(s, socket));
        at.and_then(|at| strangers.remove(at)).is_some()
    }

    fn strangers(&self) -> MutexGuard<'_, VecDeque<Arc<TcpStream>>> {
        self.strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a rank that calls.
    pub(super) fn admit(&self, hello: &Hello) -> std::result::Result<(), (String, bool)> {
        let no = |problem: String| Err((problem, false));
        if hello.world != self.world {
            let (theirs, ours) = (hello.world, self.world);
            return no(format!(
                "it was started for a world of {theirs}, rank 0 for {ours}"
            ));
        }
        if hello.rank >= self.world {
            return no(format!("a world of {} has no such rank", self.world));
        }
        match hello.attempt.cmp(&self.attempt) {
            std::cmp::Ordering::Less => no(format!(
                "it belongs to attempt {}, rank 0 is in attempt {}",
                hello.attempt, self.attempt
            )),
            // This server is about to be replaced.
            std::cmp::Ordering::Greater => Err(("rank 0 has not restarted yet".into(), true)),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }
}

/// Lets callers in until the server closes.
fn open_door(listener: &TcpListener, book: &Arc<Book>) {
    while !book.is_closing() {
        let mut door = [PollFd::new(listener, PollFlags::IN)];
        let glance = Timespec::try_from(GLANCE).ok();
        if !matches!(poll(&mut door, glance.as_ref()), Ok(1..)) {
            continue;
        }
        let Ok((socket, from)) = listener.accept() else {
            // Out of files, perhaps: the next look is not to be at once.
            std::thread::sleep(GLANCE);
            continue;
        };
        let (guest, socket) = (book.clone(), Arc::new(socket));
        let most = 4 * book.world + 2 * STRANGERS;
        if book.connections.fetch_add(1, Ordering::Relaxed) >= most {
            // Those who were sent away are not gone yet, or ranks open more than they need.
            book.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        book.await_proof(&socket);
        let serve = move || {
            guests::serve(&guest, socket, from);
            guest.connections.fetch_sub(1, Ordering::Release);
        };
        let thread = std::thread::Builder::new().name("rendezvous guest".into());
        if thread.spawn(serve).is_err() {
            book.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Listens on the first of some ports that is not taken.
///
/// Nothing else is a reason to look at the next: a name without an address has none at any port, and each
/// time the resolver may take long to say so.
fn on_first<T>(
    ports: RangeInclusive<u16>,
    mut listen: impl FnMut(u16) -> io::Result<T>,
) -> io::Result<T> {
    let mut listening = Err(io::Error::other("no port to listen on"));
    for port in ports {
        listening = listen(port);
        match &listening {
            Err(e) if e.kind() == ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    listening
}

/// A listener: on all interfaces if there are other hosts, else on a loopback address alone.
fn listen(terms: &Terms, port: u16) -> std::io::Result<TcpListener> {
    let addresses = terms.addresses(port)?;
    if terms.several_hosts {
        // Not at the address itself. Kubeflow tells the first pod that the master is localhost, and
        // many systems have 127.0.1.1 for their own name: other hosts come by another address.
        return bind(terms, any(&addresses, port));
    }
    let mut problem = std::io::Error::other("a name without an address");
    for address in addresses {
        match bind(terms, address) {
            Ok(listener) => return Ok(listener),
            // The other ranks look in the same order, and must not find somebody else's first.
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => return Err(e),
            Err(e) => problem = e,
        }
    }
    Err(problem)
}

/// All interfaces.
fn any(addresses: &[SocketAddr], port: u16) -> SocketAddr {
    match addresses.iter().all(SocketAddr::is_ipv6) {
        true => SocketAddr::from(([0u16; 8], port)),
        false => SocketAddr::from(([0u8; 4], port)),
    }
}

fn bind(terms: &Terms, address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A port whose last job has just ended is free.
    socket.set_reuse_address(true)?;
    // The launcher holds the port, without listening on it, so that nobody else takes it.
    socket.set_reuse_port(terms.port_reserved)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_port_is_tried_only_where_one_is_taken() {
        let mut asked = Vec::new();
        let found = on_first(7..=22, |port| {
            asked.push(port);
            match port {
                9 => Ok(port),
                _ => Err(ErrorKind::AddrInUse.into()),
            }
        });
        assert!(matches!(found, Ok(9)));
        assert_eq!(asked, [7, 8, 9]);
        let mut times = 0;
        let failed = on_first(7..=22, |_| {
            times += 1;
            Err::<(), _>(io::Error::other("a name without an address"))
        });
        assert!(failed.is_err());
        assert_eq!(times, 1);
    }
}
