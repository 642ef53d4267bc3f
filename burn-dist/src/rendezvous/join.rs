//! How a rank joins: it connects to rank 0, and both prove that they know the secret.

use super::message::{HELLO_TIMEOUT, Hello, Message, PROTOCOL, Purpose};
use super::secret::nonce;
use super::stream::{Inbox, Outbox, split};
use super::terms::Terms;
use super::untrusted::line;
use crate::error::{Error, Result};
use std::io;
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a server that has this rank's proof may take to welcome it.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a rank that waits for others logs for which ones.
pub(super) const LOG_WAITING_EVERY: Duration = Duration::from_secs(10);
/// How long rank 0 tries to reach its own server. The server is listening already; if the address is
/// another host's, waiting longer does not help.
const OWN_SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The local and the remote address of a connection to rank 0.
pub(super) type Ends = (IpAddr, IpAddr);

/// Why a handshake failed.
enum Failed {
    /// It may succeed later.
    Retry(String),
    /// It will not succeed: the problem, and what to do.
    Refused(String, String),
    /// Something else than this world's rank 0 listens at this port: the problem, and what to do.
    OtherServer(String, String),
    /// The world is broken already.
    Fault(Error),
}

/// Connects to rank 0 and joins, trying again until the time is up.
pub(super) fn join(
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
    let (since, mut logged) = (Instant::now(), Instant::now());
    let until = match terms.rank {
        0 => until.min(since + OWN_SERVER_TIMEOUT),
        _ => until,
    };
    let last = terms.last_port();
    let mut ports = (terms.port..=last).cycle();
    loop {
        let port = ports.next().unwrap_or(terms.port);
        let problem = match handshake(terms, port, purpose, until) {
            Ok(connection) => return Ok(connection),
            Err(Failed::OtherServer(problem, _)) if last > terms.port => problem,
            Err(Failed::Refused(problem, remedy) | Failed::OtherServer(problem, remedy)) => {
                return Err(refused(problem, &remedy));
            }
            Err(Failed::Fault(fault)) => return Err(fault),
            Err(Failed::Retry(problem)) => problem,
        };
        if since.elapsed() > LOG_WAITING_EVERY && logged.elapsed() > LOG_WAITING_EVERY {
            logged = Instant::now();
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

/// One attempt to join.
fn handshake(
    terms: &Terms,
    port: u16,
    purpose: Purpose,
    until: Instant,
) -> std::result::Result<(Inbox, Outbox, Ends), Failed> {
    let retry = |e: io::Error| Failed::Retry(e.to_string());
    let socket = connect(terms, port, until).map_err(retry)?;
    let local = socket.local_addr().map_err(retry)?.ip();
    let remote = socket.peer_addr().map_err(retry)?.ip();
    let (mut inbox, outbox) = split(socket).map_err(retry)?;
    let other_server = |what: String| {
        let remedy = "something else listens there: choose another --master-port";
        Failed::OtherServer(what, remedy.into())
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
    let ours = nonce();
    let expect = |inbox: &mut Inbox, timeout| match inbox.soon(timeout) {
        Ok(Message::Refused {
            problem,
            again: true,
        }) => Err(Failed::Retry(line(&problem))),
        Ok(Message::Refused {
            problem,
            again: false,
        }) => {
            let remedy = "start all ranks of one job with the same build, sizes and secret";
            Err(Failed::Refused(line(&problem), remedy.into()))
        }
        Ok(message) => Ok(message),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            let e = line(&e.to_string());
            Err(other_server(format!(
                "what answered is not burn-dist ({e})"
            )))
        }
        // A server that is just closing.
        Err(e) => Err(Failed::Retry(e.to_string())),
    };
    outbox
        .send(&Message::Hello(hello, ours.clone()))
        .map_err(retry)?;
    let theirs = match expect(&mut inbox, HELLO_TIMEOUT)? {
        Message::Challenge(theirs, proof) if terms.secret.check("server", &ours, &proof) => theirs,
        Message::Challenge(..) => {
            let problem = "its rank 0 has another secret: it is another job's".into();
            let remedy = "choose another --master-port, or give all processes one BURN_DIST_SECRET";
            return Err(Failed::OtherServer(problem, remedy.into()));
        }
        other => return Err(other_server(unexpected(&other))),
    };
    inbox.trust();
    let proof = terms.secret.prove("rank", &theirs);
    outbox.send(&Message::Proof(proof)).map_err(retry)?;
    // A server that has the proof may be slow, and counts this rank as joined.
    match expect(&mut inbox, WELCOME_TIMEOUT)? {
        Message::Welcome => Ok((inbox, outbox, (local, remote))),
        Message::Fault(fault) => Err(Failed::Fault(fault)),
        other => Err(other_server(unexpected(&other))),
    }
}

fn unexpected(message: &Message) -> String {
    line(&format!("it answered {message:?}"))
}

fn connect(terms: &Terms, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut problem = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in terms.addresses(port)? {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = left.clamp(Duration::from_millis(1), CONNECT_TIMEOUT);
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => return Ok(socket),
            Err(e) => problem = e,
        }
    }
    Err(problem)
}
