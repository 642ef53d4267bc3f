//! One launcher's call, from its handshake to its end.

use super::input::Input;
use super::message::{Hello, Message, PROTOCOL};
use super::state::{Limits, Refusal};
use crate::launch::variable::MOST_RANKS;
use crate::rendezvous::{
    HELLO_TIMEOUT, Inbox, Outbox, Secret, Silence, TurnedAway, line as shown, nonce, split, word,
};
use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// The most texts about ranks that a launcher has given up since its last report.
const MOST_LOST: usize = 64;

/// What all callers' threads use.
#[derive(Debug)]
pub(super) struct Shared {
    /// A name for this run, so that no launcher goes on in another one.
    run: String,
    /// The range of hosts.
    pub(super) nodes: (usize, usize),
    secret: Secret,
    heartbeat: Duration,
    inputs: Sender<Input>,
    /// Connections.
    pub(super) open: AtomicUsize,
    pub(super) closing: AtomicBool,
    turned_away: TurnedAway,
}

impl Shared {
    pub(super) fn new(
        limits: &Limits,
        secret: Secret,
        heartbeat: Duration,
        inputs: Sender<Input>,
    ) -> Self {
        Self {
            run: nonce(),
            nodes: (limits.least_nodes, limits.most_nodes),
            secret,
            heartbeat,
            inputs,
            open: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            turned_away: TurnedAway::default(),
        }
    }
}

/// Serves a caller until it goes or the service closes.
pub(super) fn serve(shared: &Shared, socket: TcpStream, from: SocketAddr, line: u64) {
    match handshake(shared, socket, line) {
        Ok((mut inbox, outbox)) => {
            let why = listen(shared, &mut inbox, &outbox, line);
            let _ = shared.inputs.send(Input::Left { line, why });
        }
        Err(e) => {
            let why = || format!("a caller from {from}: {}", shown(&e.to_string()));
            shared.turned_away.warn("launchers", why);
        }
    }
}

/// Finds out who calls, both sides proving the secret, and takes it in if it may take part.
fn handshake(shared: &Shared, socket: TcpStream, line: u64) -> Result<(Inbox, Outbox)> {
    let denied = |what: String| Error::new(ErrorKind::PermissionDenied, what);
    let (mut inbox, outbox) = split(socket)?;
    let Message::Hello(mut hello) = inbox.soon(HELLO_TIMEOUT)? else {
        return Err(denied("it did not say hello".into()));
    };
    let refuse = |Refusal { problem, again }| {
        let refused = Message::Refused {
            problem: String::clone(&problem),
            again,
        };
        let _ = outbox.send(&refused);
        denied(problem)
    };
    let never = |problem: String| Refusal {
        problem,
        again: false,
    };
    if hello.protocol != PROTOCOL {
        let (theirs, ours) = (word(&hello.version), env!("CARGO_PKG_VERSION"));
        let problem = format!("it runs burn-dist {theirs}, node rank 0 runs {ours}");
        return Err(refuse(never(problem)));
    }
    let ours = nonce();
    outbox.send(&Message::Challenge {
        nonce: ours.clone(),
        proof: shared.secret.prove("launchers", &hello.nonce),
    })?;
    match inbox.soon(HELLO_TIMEOUT)? {
        Message::Proof(proof) if shared.secret.check("launcher", &ours, &proof) => {}
        _ => return Err(refuse(never("its secret is not node rank 0's".into()))),
    }
    if let Some(problem) = problem_of(shared, &hello) {
        return Err(refuse(never(problem)));
    }
    hello.host = word(&hello.host);
    let (answer, joined) = channel();
    let came = Input::Came {
        line,
        hello,
        outbox: outbox.clone(),
        answer,
    };
    let closing = |_| denied("the run has ended".into());
    shared.inputs.send(came).map_err(|_| closing(()))?;
    let joined = joined.recv_timeout(HELLO_TIMEOUT);
    joined.map_err(|_| closing(()))?.map_err(refuse)?;
    inbox.trust();
    let welcome = outbox.send(&Message::Welcome(shared.run.clone()));
    if welcome.is_err() {
        let why = "it went before it was welcomed".into();
        let _ = shared.inputs.send(Input::Left { line, why });
    }
    welcome?;
    Ok((inbox, outbox))
}

/// Why a caller that knows the secret does not belong to this run.
fn problem_of(shared: &Shared, hello: &Hello) -> Option<String> {
    let (least, most) = shared.nodes;
    if hello.nodes != shared.nodes {
        let (their_least, their_most) = hello.nodes;
        let theirs = format!("it was started with --nnodes {their_least}:{their_most}");
        return Some(format!("{theirs}, node rank 0 with {least}:{most}"));
    }
    let other = hello.run.as_ref().is_some_and(|run| *run != shared.run);
    other.then(|| "node rank 0 has been started anew, for another run".into())
}

/// Exchanges signs of life with a launcher, and passes on what it reports; returns why it has gone.
fn listen(shared: &Shared, inbox: &mut Inbox, outbox: &Outbox, line: u64) -> String {
    let beat_every = shared.heartbeat / 4;
    let (mut silence, mut sent) = (Silence::default(), None::<Instant>);
    while !shared.closing.load(Ordering::SeqCst) {
        if sent.is_none_or(|at| at.elapsed() >= beat_every) {
            sent = Some(Instant::now());
            let _ = outbox.send(&Message::Beat);
        }
        match silence.listen(inbox, beat_every.min(Duration::from_millis(250))) {
            Ok(Some(Message::Report(mut report))) => {
                report.ranks = report.ranks.min(MOST_RANKS);
                report.lost.truncate(MOST_LOST);
                report.lost.iter_mut().for_each(|text| *text = shown(text));
                let _ = shared.inputs.send(Input::Report { line, report });
            }
            Ok(_) => {}
            Err(_) => return "its launcher closed the connection".into(),
        }
        if silence.is_longer_than(shared.heartbeat) {
            return format!("no sign of life for {:?}", shared.heartbeat);
        }
    }
    "the run has ended".into()
}
