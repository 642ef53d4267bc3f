//! How the links of a group come to be: every rank listens, and calls those before it.

use super::door::{Door, GLANCE, Known, MANNERS};
use super::link::Link;
use super::ring::Segment;
use super::{Options, Transport};
use crate::error::{Error, Result};
use crate::rendezvous::Seat;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Shared memory on its way in one direction, and of all pairs of a group together as far as each
/// still gets some.
const RING: usize = 512 << 10;
const RINGS: usize = 256 << 20;

/// How a rank is reached, as the store knows it.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    address: SocketAddr,
    /// Equal on processes that share a kernel.
    host: String,
    /// Whoever calls must know it.
    token: String,
}

/// What the called side offers instead of the socket.
#[derive(Debug, Default)]
struct Offer {
    pid: u32,
    fd: i32,
    token: [u8; 16],
}

/// One group that is being connected.
struct Meeting<'a> {
    seat: &'a Seat,
    options: &'a Options,
    members: &'a [usize],
    /// This rank's place in the group, and its number in the world.
    place: usize,
    me: usize,
    token: String,
    until: Instant,
}

/// The links to all other members, each at its member's place.
pub(super) fn connect(
    seat: &Seat,
    options: &Options,
    group: &str,
    place: usize,
    members: &[usize],
) -> Result<Vec<Option<Link>>> {
    let meeting = Meeting {
        seat,
        options,
        members,
        place,
        me: members[place],
        token: format!("{:032x}", rand::random::<u128>()),
        until: Instant::now() + seat.terms().patience,
    };
    let mut links: Vec<Option<Link>> = members.iter().map(|_| None).collect();
    if members.len() == 1 {
        return Ok(links);
    }
    let key = |rank: usize| format!("mesh/{group}/{rank}");
    let failed = |e: io::Error| Error::config("a listener for other ranks", "a free port", e);
    let listener = TcpListener::bind((seat.local(), 0)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let card = Card {
        address: options
            .advertise
            .as_ref()
            .map_or(bound, |advertise| advertise(bound)),
        host: options.host.clone(),
        token: meeting.token.clone(),
    };
    let card = serde_json::to_string(&card).map_err(|e| failed(e.into()))?;
    seat.set(key(meeting.me), card)?;
    let (before, after) = links.split_at_mut(place);
    std::thread::scope(|scope| {
        let answering = std::thread::Builder::new()
            .name(format!("rank {} answers", meeting.me))
            .spawn_scoped(scope, || meeting.answer(&listener, &mut after[1..]))
            .map_err(failed)?;
        let calling = before.iter_mut().zip(members).try_for_each(|(link, peer)| {
            let left = meeting.until.saturating_duration_since(Instant::now());
            let card = seat.wait(key(*peer), left)?;
            let card: Card = serde_json::from_str(&card)
                .map_err(|e| Error::config(key(*peer), "a rank's address", e))?;
            let address = seat.reached(card.address);
            *link = Some(meeting.call(*peer, &Card { address, ..card })?);
            Ok(())
        });
        // Whoever fails tells the other, so that neither waits in vain.
        let calling = calling.map_err(|error| seat.abort(error));
        let gone = |_| {
            let message = "the thread that answers is gone".into();
            Err(Error::Panicked {
                rank: meeting.me,
                message,
            })
        };
        let answering = answering
            .join()
            .unwrap_or_else(gone)
            .map_err(|error| seat.abort(error));
        calling.and(answering)
    })?;
    Ok(links)
}

impl Meeting<'_> {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Calls a peer that listens.
    fn call(&self, peer: usize, card: &Card) -> Result<Link> {
        let broken = |e: io::Error| self.unreachable(peer, card, &e);
        let (mut socket, offer) = loop {
            match self.ring_up(card) {
                Ok(answered) => break answered,
                Err(e) if self.seat.fault().is_some() || self.left().is_zero() => {
                    return Err(broken(e));
                }
                // It may have taken this rank for a stranger who is slow.
                Err(_) => std::thread::sleep(GLANCE),
            }
        };
        if offer.pid == 0 {
            self.expect_memory(peer, "it cannot be had")?;
            return Link::tcp(socket).map_err(broken);
        }
        let opened = Segment::open((offer.pid, offer.fd), self.capacity(), &offer.token);
        socket
            .write_all(&[u8::from(opened.is_ok())])
            .map_err(broken)?;
        match opened {
            Ok(segment) => Link::memory(socket, segment.ends(1)).map_err(broken),
            Err(e) => {
                self.expect_memory(peer, &e.to_string())?;
                log::debug!("rank {}: no shared memory with rank {peer}: {e}", self.me);
                Link::tcp(socket).map_err(broken)
            }
        }
    }

    /// One attempt to call a peer, and to hear what it offers.
    fn ring_up(&self, card: &Card) -> io::Result<(TcpStream, Offer)> {
        let patience = self.left().clamp(Duration::from_millis(1), MANNERS);
        let mut socket = TcpStream::connect_timeout(&card.address, patience)?;
        socket.set_nodelay(true)?;
        let mut hello = card.token.as_bytes().to_vec();
        hello.extend((self.me as u64).to_le_bytes());
        hello.push(u8::from(self.shares_memory(&card.host)));
        socket.set_write_timeout(Some(MANNERS))?;
        socket.write_all(&hello)?;
        let mut offer = [0; 24];
        // It serves one caller after the other.
        self.read(&socket, &mut offer, self.until)?;
        let word = |at: usize| [0, 1, 2, 3].map(|i| offer[at + i]);
        let mut token = [0; 16];
        token.copy_from_slice(&offer[8..]);
        let (pid, fd) = (u32::from_le_bytes(word(0)), i32::from_le_bytes(word(4)));
        Ok((socket, Offer { pid, fd, token }))
    }

    /// Fills `bytes`, until a moment that counts for all of them, while the world is whole.
    fn read(&self, mut socket: &TcpStream, bytes: &mut [u8], until: Instant) -> io::Result<()> {
        socket.set_read_timeout(Some(GLANCE))?;
        let mut have = 0;
        while have < bytes.len() {
            if Instant::now() >= until || self.seat.fault().is_some() {
                return Err(ErrorKind::TimedOut.into());
            }
            match socket.read(&mut bytes[have..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Answers the peers that call, until all have.
    fn answer(&self, listener: &TcpListener, links: &mut [Option<Link>]) -> Result<()> {
        let mut door = Door::new(listener, &self.token, self.me, links.len());
        while links.iter().any(Option::is_none) {
            if let Some(fault) = self.seat.fault() {
                return Err(fault);
            }
            if self.left().is_zero() {
                let missing = links.iter().enumerate().filter(|(_, link)| link.is_none());
                return Err(Error::Timeout {
                    rank: self.me,
                    call: "connecting the ranks".into(),
                    waited: self.seat.terms().patience,
                    missing: missing
                        .map(|(i, _)| self.members[self.place + 1 + i])
                        .collect(),
                });
            }
            let Some(caller) = door.next() else {
                continue;
            };
            let from = caller.from;
            match self.greet(caller) {
                Ok((at, link)) if links.get(at).is_some_and(Option::is_none) => {
                    links[at] = Some(link);
                }
                Ok(_) => door.turn_away(from, &io::Error::other("it has called before")),
                Err(e) => door.turn_away(from, &e),
            }
        }
        let over_tcp = |link: &Option<Link>| link.as_ref().is_some_and(Link::is_checked);
        match links.iter().position(over_tcp) {
            Some(at) => {
                let why = "the other could not open it, or was started with another --transport";
                self.expect_memory(self.members[self.place + 1 + at], why)
            }
            None => Ok(()),
        }
    }

    /// Makes a link of a caller; says which of the later members it is.
    fn greet(&self, caller: Known) -> io::Result<(usize, Link)> {
        let Known {
            mut socket,
            rank,
            shares_memory,
            ..
        } = caller;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(MANNERS))?;
        let later = &self.members[self.place + 1..];
        let at = later.iter().position(|m| *m as u64 == rank);
        let at =
            at.ok_or_else(|| io::Error::other("it says that it is no rank that calls here"))?;
        let mut offer = Offer::default();
        let mut segment = None;
        if shares_memory && self.options.transport != Transport::Tcp {
            offer.token = rand::random();
            // Without memory for it the socket does.
            segment = Segment::new(self.capacity(), &offer.token).ok();
            if let Some(place) = segment.as_ref().and_then(Segment::place) {
                (offer.pid, offer.fd) = place;
            }
        }
        let mut bytes = offer.pid.to_le_bytes().to_vec();
        bytes.extend(offer.fd.to_le_bytes());
        bytes.extend(offer.token);
        socket.write_all(&bytes)?;
        let taken = match segment {
            None => None,
            Some(mut segment) => {
                let mut answer = [0];
                // It knows the token, so it is waited for.
                self.read(&socket, &mut answer, self.until)?;
                segment.unshare();
                (answer[0] == 1).then_some(segment)
            }
        };
        let link = match taken {
            Some(segment) => Link::memory(socket, segment.ends(0))?,
            None => Link::tcp(socket)?,
        };
        Ok((at, link))
    }

    /// Whether shared memory with a rank of that host is to be tried.
    fn shares_memory(&self, host: &str) -> bool {
        match self.options.transport {
            Transport::Tcp => false,
            Transport::Shm => true,
            Transport::Auto => !host.is_empty() && host == self.options.host,
        }
    }

    /// The same on both sides of a pair.
    fn capacity(&self) -> usize {
        let ranks = self.members.len();
        (RINGS / (ranks * ranks)).clamp(RING / 8, RING) / 4096 * 4096
    }

    fn expect_memory(&self, peer: usize, why: &str) -> Result<()> {
        if self.options.transport != Transport::Shm {
            return Ok(());
        }
        let what = format!("shared memory of ranks {} and {peer}", self.me);
        let expected = "processes of one host that may open each other's files, as the transport \
                        `shm` demands (`auto` falls back to TCP)";
        Err(Error::config(what, expected, why))
    }

    fn unreachable(&self, peer: usize, card: &Card, e: &io::Error) -> Error {
        if let Some(fault) = self.seat.fault() {
            return fault;
        }
        Error::Join {
            rank: self.me,
            address: card.address.to_string(),
            problem: format!("rank {peer} does not answer there: {e}"),
            remedy: "ranks need to reach each other on any port: look at the firewall between the \
                     hosts"
                .into(),
        }
    }
}
