//! Connects the ranks of a group: every rank listens, and connects to the ranks before it.

use super::link::Link;
use super::listener::{ACCEPT_POLL_EVERY, Authenticated, HANDSHAKE_TIMEOUT, PeerListener};
use super::options::Options;
use super::process_memory::{ProcessMemory, permit_siblings};
use super::ring::Segment;
use super::shaping::Shaper;
use super::transport::Transport;
use crate::error::{Error, Result};
use crate::rendezvous::Seat;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of a pair's ring in one direction, and of all rings of a group together as long as each has
/// its least size.
const RING_BYTES: usize = 512 << 10;
const ALL_RINGS_BYTES: usize = 256 << 20;

/// How to reach a rank, as it is published in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Contact {
    address: SocketAddr,
    /// Equal on processes that share a kernel.
    host: String,
    /// What a rank that connects must present.
    token: String,
}

/// The shared memory that the accepting side offers instead of the socket.
#[derive(Debug, Default)]
struct SegmentOffer {
    pid: u32,
    fd: i32,
    /// Where the accepting process holds the token, for a peer that may read its memory.
    address: u64,
    token: [u8; 16],
}

/// What the connecting side answers: whether it has opened the segment and may read the other's memory,
/// and where its own copy of the token is.
#[derive(Debug)]
struct SegmentAnswer {
    opened: bool,
    reads: bool,
    pid: u32,
    address: u64,
}

const OFFER: usize = 32;
const ANSWER: usize = 14;

impl SegmentOffer {
    fn encode(&self) -> [u8; OFFER] {
        let mut bytes = [0; OFFER];
        bytes[..4].copy_from_slice(&self.pid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.fd.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.address.to_le_bytes());
        bytes[16..].copy_from_slice(&self.token);
        bytes
    }

    fn decode(bytes: &[u8; OFFER]) -> Self {
        let mut token = [0; 16];
        token.copy_from_slice(&bytes[16..]);
        let number = |from: usize, n: usize| number(&bytes[from..from + n]);
        Self {
            pid: number(0, 4) as u32,
            fd: number(4, 4) as u32 as i32,
            address: number(8, 8),
            token,
        }
    }
}

impl SegmentAnswer {
    fn encode(&self) -> [u8; ANSWER] {
        let mut bytes = [0; ANSWER];
        bytes[..2].copy_from_slice(&[self.opened.into(), self.reads.into()]);
        bytes[2..6].copy_from_slice(&self.pid.to_le_bytes());
        bytes[6..].copy_from_slice(&self.address.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ANSWER]) -> Self {
        Self {
            opened: bytes[0] == 1,
            reads: bytes[1] == 1,
            pid: number(&bytes[2..6]) as u32,
            address: number(&bytes[6..]),
        }
    }
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// One group that is being connected.
struct Connecting<'a> {
    seat: &'a Seat,
    options: &'a Options,
    /// The link to other nodes, if it is shaped.
    shaper: Option<&'a Shaper>,
    members: &'a [usize],
    /// This rank in the group, and in the world.
    rank: usize,
    world_rank: usize,
    token: String,
    until: Instant,
}

/// The links to all other members, each at its member's rank in the group.
pub(super) fn connect(
    seat: &Seat,
    options: &Options,
    shaper: Option<&Shaper>,
    group: &str,
    rank: usize,
    members: &[usize],
) -> Result<Vec<Option<Link>>> {
    let connecting = Connecting {
        seat,
        options,
        shaper,
        members,
        rank,
        world_rank: members[rank],
        token: format!("{:032x}", rand::random::<u128>()),
        until: Instant::now() + seat.terms().patience,
    };
    let mut links: Vec<Option<Link>> = members.iter().map(|_| None).collect();
    if members.len() == 1 {
        return Ok(links);
    }
    if options.transport != Transport::Tcp {
        permit_siblings();
    }
    let key = |rank: usize| format!("mesh/{group}/{rank}");
    let failed = |e: io::Error| Error::config("a listener for other ranks", "a free port", e);
    let listener = TcpListener::bind((seat.local(), 0)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let contact = Contact {
        address: options
            .advertise
            .as_ref()
            .map_or(bound, |advertise| advertise(bound)),
        host: options.host.clone(),
        token: connecting.token.clone(),
    };
    let contact = serde_json::to_string(&contact).map_err(|e| failed(e.into()))?;
    seat.set(key(connecting.world_rank), contact)?;
    let (before, after) = links.split_at_mut(rank);
    std::thread::scope(|scope| {
        let accepting = std::thread::Builder::new()
            .name(format!("rank {} accepts", connecting.world_rank))
            .spawn_scoped(scope, || connecting.accept(&listener, &mut after[1..]))
            .map_err(failed)?;
        let connected = before.iter_mut().zip(members).try_for_each(|(link, peer)| {
            let left = connecting.until.saturating_duration_since(Instant::now());
            let contact = seat.wait(key(*peer), left)?;
            let contact: Contact = serde_json::from_str(&contact)
                .map_err(|e| Error::config(key(*peer), "a rank's address", e))?;
            let address = seat.reached(contact.address);
            *link = Some(connecting.connect_to(*peer, &Contact { address, ..contact })?);
            Ok(())
        });
        // A failure of either side aborts the world, so that the other side stops waiting.
        let connected = connected.map_err(|error| seat.abort(error));
        let panicked = |_| {
            let message = "the thread that accepts connections has ended".into();
            Err(Error::Panicked {
                rank: connecting.world_rank,
                message,
            })
        };
        let accepting = accepting
            .join()
            .unwrap_or_else(panicked)
            .map_err(|error| seat.abort(error));
        connected.and(accepting)
    })?;
    Ok(links)
}

impl Connecting<'_> {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Connects to a peer that listens.
    fn connect_to(&self, peer: usize, contact: &Contact) -> Result<Link> {
        let broken = |e: io::Error| self.unreachable(peer, contact, &e);
        let (mut socket, offer) = loop {
            match self.connect_once(contact) {
                Ok(connected) => break connected,
                Err(e) if self.seat.fault().is_some() || self.left().is_zero() => {
                    return Err(broken(e));
                }
                // The peer may have closed the connection because the hello came late.
                Err(_) => std::thread::sleep(ACCEPT_POLL_EVERY),
            }
        };
        if offer.pid == 0 {
            self.require_memory(peer, "it cannot be had")?;
            return self.tcp(peer, socket).map_err(broken);
        }
        let opened = Segment::open((offer.pid, offer.fd), self.capacity(), &offer.token);
        // The peer looks for these bytes in this process's memory.
        let token = Box::new(offer.token);
        let acceptor = ProcessMemory::of(offer.pid);
        let reads = self.reads_in_place() && {
            let held = acceptor.holds(offer.address, &offer.token);
            held.inspect_err(|e| self.say_not_read(peer, e)).is_ok()
        };
        let answer = SegmentAnswer {
            opened: opened.is_ok(),
            reads,
            pid: std::process::id(),
            address: token.as_ptr().expose_provenance() as u64,
        };
        socket.write_all(&answer.encode()).map_err(broken)?;
        let mut both = [0];
        self.read(&socket, &mut both, self.until).map_err(broken)?;
        let in_place = (both == [1]).then_some(acceptor);
        match opened {
            Ok(segment) => Link::memory(socket, segment.ends(1), in_place).map_err(broken),
            Err(e) => {
                self.require_memory(peer, &e.to_string())?;
                log::debug!(
                    "rank {}: no shared memory with rank {peer}: {e}",
                    self.world_rank
                );
                self.tcp(peer, socket).map_err(broken)
            }
        }
    }

    /// One attempt to connect to a peer and to read its offer.
    fn connect_once(&self, contact: &Contact) -> io::Result<(TcpStream, SegmentOffer)> {
        let timeout = self
            .left()
            .clamp(Duration::from_millis(1), HANDSHAKE_TIMEOUT);
        let mut socket = TcpStream::connect_timeout(&contact.address, timeout)?;
        socket.set_nodelay(true)?;
        let mut hello = contact.token.as_bytes().to_vec();
        hello.extend((self.world_rank as u64).to_le_bytes());
        hello.push(u8::from(self.shares_memory(&contact.host)));
        socket.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
        socket.write_all(&hello)?;
        let mut offer = [0; OFFER];
        // The peer serves one connection after the other.
        self.read(&socket, &mut offer, self.until)?;
        Ok((socket, SegmentOffer::decode(&offer)))
    }

    /// Fills `bytes` before `until`; an error if that passes or the world fails first.
    fn read(&self, mut socket: &TcpStream, bytes: &mut [u8], until: Instant) -> io::Result<()> {
        socket.set_read_timeout(Some(ACCEPT_POLL_EVERY))?;
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

    /// Accepts the later ranks' connections, until all are there.
    fn accept(&self, listener: &TcpListener, links: &mut [Option<Link>]) -> Result<()> {
        let mut listener = PeerListener::new(listener, &self.token, self.world_rank, links.len());
        while links.iter().any(Option::is_none) {
            if let Some(fault) = self.seat.fault() {
                return Err(fault);
            }
            if self.left().is_zero() {
                let missing = links.iter().enumerate().filter(|(_, link)| link.is_none());
                return Err(Error::Timeout {
                    rank: self.world_rank,
                    call: "connecting the ranks".into(),
                    waited: self.seat.terms().patience,
                    missing: missing
                        .map(|(i, _)| self.members[self.rank + 1 + i])
                        .collect(),
                });
            }
            let Some(peer) = listener.next() else {
                continue;
            };
            let from = peer.from;
            match self.make_link(peer) {
                Ok((at, link)) if links.get(at).is_some_and(Option::is_none) => {
                    links[at] = Some(link);
                }
                Ok(_) => listener.reject(from, &io::Error::other("it has connected before")),
                Err(e) => listener.reject(from, &e),
            }
        }
        let over_tcp = |link: &Option<Link>| link.as_ref().is_some_and(Link::is_checked);
        match links.iter().position(over_tcp) {
            Some(at) => {
                let why = "the other could not open it, or was started with another --transport";
                self.require_memory(self.members[self.rank + 1 + at], why)
            }
            None => Ok(()),
        }
    }

    /// Makes a link of a connection; returns which of the later members it is of.
    fn make_link(&self, peer: Authenticated) -> io::Result<(usize, Link)> {
        let Authenticated {
            mut socket,
            rank,
            shares_memory,
            ..
        } = peer;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
        let later = &self.members[self.rank + 1..];
        let at = later.iter().position(|m| *m as u64 == rank);
        let at = at
            .ok_or_else(|| io::Error::other("it claims to be a rank that does not connect here"))?;
        // The peer looks for the token in this process's memory: where it is must not change.
        let mut offer = Box::new(SegmentOffer::default());
        let mut segment = None;
        if shares_memory && self.options.transport != Transport::Tcp {
            offer.token = rand::random();
            offer.address = offer.token.as_ptr().expose_provenance() as u64;
            // If the memory cannot be made, the socket is used.
            segment = Segment::new(self.capacity(), &offer.token).ok();
            if let Some(descriptor) = segment.as_ref().and_then(Segment::descriptor) {
                (offer.pid, offer.fd) = descriptor;
            }
        }
        socket.write_all(&offer.encode())?;
        let link = match segment {
            None => self.tcp(later[at], socket)?,
            Some(mut segment) => {
                let mut answer = [0; ANSWER];
                // It has presented the token, so waiting for it until the deadline is safe.
                self.read(&socket, &mut answer, self.until)?;
                segment.close_file();
                let answer = SegmentAnswer::decode(&answer);
                let connector = ProcessMemory::of(answer.pid);
                let both = answer.reads && self.reads_in_place() && {
                    let held = connector.holds(answer.address, &offer.token);
                    let peer = self.members[self.rank + 1 + at];
                    held.inspect_err(|e| self.say_not_read(peer, e)).is_ok()
                };
                socket.write_all(&[both.into()])?;
                if answer.opened {
                    Link::memory(socket, segment.ends(0), both.then_some(connector))?
                } else {
                    self.tcp(later[at], socket)?
                }
            }
        };
        Ok((at, link))
    }

    /// A link through a socket, behind the shaped link if the peer is on another node.
    fn tcp(&self, peer: usize, socket: TcpStream) -> io::Result<Link> {
        match self.shaper {
            Some(shaper) => Link::tcp(shaper.carry(peer, socket)?),
            None => Link::tcp(socket),
        }
    }

    /// Whether to try shared memory with a rank of that host.
    fn shares_memory(&self, host: &str) -> bool {
        match self.options.transport {
            Transport::Tcp => false,
            Transport::Shm | Transport::Ring => true,
            Transport::Auto => !host.is_empty() && host == self.options.host,
        }
    }

    /// Whether to read peers' memory where the system permits it.
    fn reads_in_place(&self) -> bool {
        self.options.transport != Transport::Ring
    }

    fn say_not_read(&self, peer: usize, e: &io::Error) {
        let rank = self.world_rank;
        log::debug!("rank {rank} may not read the memory of rank {peer}, blocks are copied: {e}");
    }

    /// Bytes of a ring; the same on both sides of a pair.
    fn capacity(&self) -> usize {
        let ranks = self.members.len();
        (ALL_RINGS_BYTES / (ranks * ranks)).clamp(RING_BYTES / 8, RING_BYTES) / 4096 * 4096
    }

    fn require_memory(&self, peer: usize, why: &str) -> Result<()> {
        let transport = self.options.transport;
        if !matches!(transport, Transport::Shm | Transport::Ring) {
            return Ok(());
        }
        let what = format!("shared memory of ranks {} and {peer}", self.world_rank);
        let expected = format!(
            "processes of one host that may open each other's files, as the transport `{transport}` \
             demands (`auto` falls back to TCP)"
        );
        Err(Error::config(what, expected, why))
    }

    fn unreachable(&self, peer: usize, contact: &Contact, e: &io::Error) -> Error {
        if let Some(fault) = self.seat.fault() {
            return fault;
        }
        Error::Join {
            rank: self.world_rank,
            address: contact.address.to_string(),
            problem: format!("rank {peer} does not answer there: {e}"),
            remedy: "ranks need to reach each other on any port: look at the firewall between the \
                     hosts"
                .into(),
        }
    }
}
