//! One connection to the server, from its handshake to its end.

use super::message::{HELLO_TIMEOUT, Hello, Message, PROTOCOL, Purpose};
use super::registry::{CLOSE_POLL_EVERY, Registry};
use super::secret::nonce;
use super::state::Effect;
use super::stream::{Inbox, Outbox, Silence, split};
use super::untrusted::{line, word};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

/// Serves a caller until it goes or the server closes.
pub(super) fn serve(registry: &Arc<Registry>, socket: &Arc<TcpStream>, from: SocketAddr) {
    match handshake(registry, socket) {
        Ok((hello, inbox, outbox)) => match hello.purpose {
            Purpose::Watch => watch(registry, hello.rank, inbox, &outbox),
            Purpose::Store => store(registry, hello.rank, inbox, &outbox),
        },
        Err(e) => {
            registry.has_proven(socket);
            registry.warn(|| format!("a caller from {from}: {}", line(&e.to_string())));
        }
    }
}

/// Finds out who calls, both sides proving the secret, and lets it join if it may.
fn handshake(registry: &Registry, socket: &Arc<TcpStream>) -> io::Result<(Hello, Inbox, Outbox)> {
    let denied = |what: String| io::Error::new(io::ErrorKind::PermissionDenied, what);
    let (mut inbox, outbox) = split(socket.clone())?;
    let Message::Hello(hello, theirs) = inbox.soon(HELLO_TIMEOUT)? else {
        return Err(denied("it did not say hello".into()));
    };
    let refuse = |problem: String, again: bool| {
        let refused = Message::Refused {
            problem: problem.clone(),
            again,
        };
        let _ = outbox.send(&refused);
        denied(problem)
    };
    if hello.protocol != PROTOCOL {
        let ours = env!("CARGO_PKG_VERSION");
        let problem = format!(
            "it runs burn-dist {} (protocol {}), rank 0 runs {ours} (protocol {PROTOCOL})",
            word(&hello.version),
            hello.protocol
        );
        return Err(refuse(problem, false));
    }
    let ours = nonce();
    let proof = registry.secret.prove("server", &theirs);
    outbox.send(&Message::Challenge(ours.clone(), proof))?;
    match inbox.soon(HELLO_TIMEOUT)? {
        Message::Proof(proof) if registry.secret.check("rank", &ours, &proof) => {}
        _ => return Err(refuse("its secret is not rank 0's".into(), false)),
    }
    if !registry.has_proven(socket) {
        return Err(denied("others came while it took its time".into()));
    }
    let joined = registry.join(&hello, &outbox);
    joined.map_err(|(problem, again)| refuse(problem, again))?;
    inbox.trust();
    outbox.send(&Message::Welcome)?;
    Ok((hello, inbox, outbox))
}

/// Exchanges heartbeats with a rank until it goes, and hears what it reports.
fn watch(registry: &Arc<Registry>, rank: usize, mut inbox: Inbox, outbox: &Outbox) {
    let beat_every = registry.heartbeat / 4;
    let (mut silence, mut sent) = (Silence::default(), Instant::now());
    // A rank that joins a world that is broken is told at once.
    if let Some(fault) = registry.fault() {
        let _ = outbox.send(&Message::Fault(fault));
    }
    while !registry.is_closing() {
        if sent.elapsed() >= beat_every {
            sent = Instant::now();
            let _ = outbox.send(&Message::Beat(String::new()));
        }
        match silence.listen(&mut inbox, beat_every.min(CLOSE_POLL_EVERY)) {
            Ok(None) => {}
            Ok(Some(message)) => hear(registry, rank, message),
            Err(_) => break,
        }
        if silence.is_longer_than(registry.heartbeat) {
            let notice = registry.update(|state| state.silent(rank, registry.heartbeat));
            registry.send(notice);
            // Should the rank go on, it is told what has happened.
            silence = Silence::default();
        }
    }
    if registry.is_closing() {
        return;
    }
    let notice = registry.update(|state| state.disconnected(rank));
    registry.send(notice);
}

/// Acts on what a rank says.
fn hear(registry: &Arc<Registry>, rank: usize, message: Message) {
    if message == Message::Bye {
        log::debug!("rendezvous: rank {rank} is done");
    }
    match registry.update(|state| state.hear(rank, message, Instant::now())) {
        Effect::Nothing => {}
        Effect::Tell(notice) => registry.send(Some(notice)),
        Effect::JudgeAt(due) => {
            let registry = registry.clone();
            // Without a thread the suspicion waits for the next one; heartbeats still find the dead.
            let _ = std::thread::Builder::new()
                .name("rendezvous judge".into())
                .spawn(move || registry.judge_at(due));
        }
    }
}

/// Answers requests to the store until the rank goes.
fn store(registry: &Registry, rank: usize, mut inbox: Inbox, outbox: &Outbox) {
    while !registry.is_closing() {
        let request = match inbox.next(CLOSE_POLL_EVERY) {
            Ok(Some(Message::Ask(request))) => request,
            Ok(None) => continue,
            _ => return,
        };
        let answer = registry.answer(rank, request);
        if outbox.send(&Message::Answer(answer)).is_err() {
            return;
        }
    }
}
