//! The way to a seat: reaching rank 0, and showing each other who one is.

use super::message::{Hello, Message, PROTOCOL, Purpose};
use super::secret::number;
use super::stream::{Inbox, Outbox, split};
use super::terms::Terms;
use super::words::line;
use crate::error::{Error, Result};
use std::io;
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long one attempt to connect may take.
const CONNECTING: Duration = Duration::from_secs(3);
/// How long the server may take for each step of a greeting.
const MANNERS: Duration = Duration::from_secs(5);
/// How long it may take until this rank has its seat.
const SEATING: Duration = Duration::from_secs(60);
/// After so long a rank says for whom it waits, and again as often.
pub(super) const QUIET: Duration = Duration::from_secs(10);

/// How long rank 0 tries to reach what it has itself opened: that is there, or the address is another
/// host's, and then no patience helps.
const OWN: Duration = Duration::from_secs(10);

/// The address by which this host reaches rank 0, and the one that it reaches.
pub(super) type Ends = (IpAddr, IpAddr);

/// Why a greeting failed.
enum Turned {
    /// It may succeed later.
    Later(String),
    /// It will not.
    Away(String, String),
    /// Somebody else answers at this port.
    Stranger(String, String),
    /// The world is broken already.
    Broken(Error),
}

/// Connects to rank 0 and comes in, trying again until the time is up.
pub(super) fn enter(
    terms: &Terms,
    purpose: Purpose,
    until: Instant,
) -> Result<(Inbox, Outbox, Ends)> {
    let mut pause = Duration::from_millis(20);
    let refused = |problem: String, remedy: &str| Error::Join {
        rank: terms.rank,
        address: format!("{}:{}", terms.master, terms.port),
        problem,
        remedy: remedy.into(),
    };
    let (since, mut told) = (Instant::now(), Instant::now());
    let until = match terms.rank {
        0 => until.min(since + OWN),
        _ => until,
    };
    let last = terms.last_port();
    let mut ports = (terms.port..=last).cycle();
    loop {
        let port = ports.next().unwrap_or(terms.port);
        let problem = match greet(terms, port, purpose, until) {
            Ok(connection) => return Ok(connection),
            Err(Turned::Stranger(problem, _)) if last > terms.port => problem,
            Err(Turned::Away(problem, remedy) | Turned::Stranger(problem, remedy)) => {
                return Err(refused(problem, &remedy));
            }
            Err(Turned::Broken(fault)) => return Err(fault),
            Err(Turned::Later(problem)) => problem,
        };
        if since.elapsed() > QUIET && told.elapsed() > QUIET {
            told = Instant::now();
            let (rank, address) = (terms.rank, terms.address());
            log::warn!("rank {rank}: waiting for rank 0 at {address}: {problem}");
        }
        if port < last && Instant::now() < until {
            continue;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() && terms.rank == 0 {
            let problem = format!("what this rank has opened there does not answer: {problem}");
            let remedy = "is --master-addr an address of rank 0's own host, and may this host connect \
                          to itself?";
            return Err(refused(problem, remedy));
        }
        if left.is_zero() {
            let problem = format!("no world within {:?}: {problem}", terms.patience);
            let remedy = "is rank 0 running, and are --master-addr and --master-port its own and \
                          open to this host?";
            return Err(refused(problem, remedy));
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// One attempt to come in.
fn greet(
    terms: &Terms,
    port: u16,
    purpose: Purpose,
    until: Instant,
) -> std::result::Result<(Inbox, Outbox, Ends), Turned> {
    let later = |e: io::Error| Turned::Later(e.to_string());
    let socket = connect(terms, port, until).map_err(later)?;
    let near = socket.local_addr().map_err(later)?.ip();
    let far = socket.peer_addr().map_err(later)?.ip();
    let (mut inbox, outbox) = split(socket).map_err(later)?;
    let strange = |what: String| {
        let remedy = "something else listens there: choose another --master-port";
        Turned::Stranger(what, remedy.into())
    };
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        purpose,
        rank: terms.rank,
        world: terms.world,
        attempt: terms.attempt,
        host: terms.host.clone(),
        pid: std::process::id(),
    };
    let ours = number();
    let expect = |inbox: &mut Inbox, patience| match inbox.soon(patience) {
        Ok(Message::Refused {
            problem,
            again: true,
        }) => Err(Turned::Later(line(&problem))),
        Ok(Message::Refused {
            problem,
            again: false,
        }) => {
            let remedy = "start all ranks of one job with the same build, sizes and secret";
            Err(Turned::Away(line(&problem), remedy.into()))
        }
        Ok(message) => Ok(message),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            let e = line(&e.to_string());
            Err(strange(format!("what answered is not burn-dist ({e})")))
        }
        // A server that is just closing.
        Err(e) => Err(Turned::Later(e.to_string())),
    };
    outbox
        .send(&Message::Hello(hello, ours.clone()))
        .map_err(later)?;
    let theirs = match expect(&mut inbox, MANNERS)? {
        Message::Challenge(theirs, proof) if terms.secret.check("server", &ours, &proof) => theirs,
        Message::Challenge(..) => {
            let problem = "its rank 0 has another secret: it is another job's".into();
            let remedy = "choose another --master-port, or give all processes one BURN_DIST_SECRET";
            return Err(Turned::Stranger(problem, remedy.into()));
        }
        other => return Err(strange(unexpected(&other))),
    };
    inbox.trust();
    let proof = terms.secret.prove("rank", &theirs);
    outbox.send(&Message::Proof(proof)).map_err(later)?;
    // A server that has the proof may be slow, and counts this rank as seated.
    match expect(&mut inbox, SEATING)? {
        Message::Welcome => Ok((inbox, outbox, (near, far))),
        Message::Fault(fault) => Err(Turned::Broken(fault)),
        other => Err(strange(unexpected(&other))),
    }
}

fn unexpected(message: &Message) -> String {
    line(&format!("it answered {message:?}"))
}

fn connect(terms: &Terms, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut problem = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in terms.addresses(port)? {
        let left = until.saturating_duration_since(Instant::now());
        let patience = left.clamp(Duration::from_millis(1), CONNECTING);
        match TcpStream::connect_timeout(&address, patience) {
            Ok(socket) => return Ok(socket),
            Err(e) => problem = e,
        }
    }
    Err(problem)
}
