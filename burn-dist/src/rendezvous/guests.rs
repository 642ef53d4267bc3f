//! One connection to the server.

use super::message::{Answer, Hello, Message, PROTOCOL, Purpose, Request};
use super::secret::number;
use super::server::{Barrier, Book, Guest};
use super::stream::{Inbox, Outbox, Silence, split};
use super::words::{line, shortened, word};
use crate::error::Error;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a connection looks whether the server closes.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a caller may take to say who it is.
const MANNERS: Duration = Duration::from_secs(5);
/// What warnings about callers begin with.
pub(super) const DOOR: &str = "rendezvous";
/// How long the judge waits for the end of a rank that another one suspects.
const DOUBT: Duration = Duration::from_millis(500);

/// Serves a caller until it goes or the server closes.
pub(super) fn serve(book: &Arc<Book>, socket: Arc<TcpStream>, from: SocketAddr) {
    match greet(book, &socket) {
        Ok((hello, inbox, outbox)) => match hello.purpose {
            Purpose::Watch => watch(book, &hello, inbox, &outbox),
            Purpose::Store => store(book, &hello, inbox, &outbox),
        },
        Err(e) => {
            book.has_proven(&socket);
            let why = || format!("a caller from {from}: {}", line(&e.to_string()));
            book.turned_away.warn(DOOR, why);
        }
    }
}

/// Finds out who calls, and whether it may come in.
fn greet(book: &Book, socket: &Arc<TcpStream>) -> io::Result<(Hello, Inbox, Outbox)> {
    let stranger = |what: String| io::Error::new(io::ErrorKind::PermissionDenied, what);
    let (mut inbox, outbox) = split(socket.clone())?;
    let Message::Hello(hello, theirs) = inbox.soon(MANNERS)? else {
        return Err(stranger("it did not say hello".into()));
    };
    let refuse = |problem: String, again: bool| {
        let refused = Message::Refused {
            problem: problem.clone(),
            again,
        };
        let _ = outbox.send(&refused);
        stranger(problem)
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
    let ours = number();
    let proof = book.secret.prove("server", &theirs);
    outbox.send(&Message::Challenge(ours.clone(), proof))?;
    match inbox.soon(MANNERS)? {
        Message::Proof(proof) if book.secret.check("rank", &ours, &proof) => {}
        _ => return Err(refuse("its secret is not rank 0's".into(), false)),
    }
    if !book.has_proven(socket) {
        return Err(stranger("others came while it took its time".into()));
    }
    if let Err((problem, again)) = book.admit(&hello) {
        if !again && hello.attempt == book.attempt {
            // Nobody else will come in its place.
            book.fail(join_error(book, hello.rank, &problem));
        }
        if again {
            // It knows the secret, so the attempt that this server is for is over.
            lost(book, hello.rank, "its launcher has started it again");
        }
        return Err(refuse(problem, again));
    }
    if hello.purpose == Purpose::Watch
        && let Err(problem) = sit(book, &hello, &outbox)
    {
        return Err(refuse(problem, false));
    }
    inbox.trust();
    outbox.send(&Message::Welcome)?;
    Ok((hello, inbox, outbox))
}

fn join_error(book: &Book, rank: usize, problem: &str) -> Error {
    Error::Join {
        rank,
        address: book.address.clone(),
        problem: problem.into(),
        remedy: "give every process the same world size and a rank of its own".into(),
    }
}

/// Gives the rank its seat, unless somebody has it.
fn sit(book: &Book, hello: &Hello, outbox: &Outbox) -> Result<(), String> {
    let rank = hello.rank;
    let who = format!("process {} on {}", hello.pid, word(&hello.host));
    let taken = book.turn(|pages| {
        let complete = !pages.seats.iter().any(|s| matches!(s, Guest::Awaited));
        let did = "joining".to_owned();
        let (new, outbox) = (who.clone(), outbox.clone());
        match &mut pages.seats[rank] {
            seat @ Guest::Awaited => {
                *seat = Guest::Here {
                    who: new,
                    did,
                    outbox,
                };
                None
            }
            Guest::Here { who: old, .. } => Some((old.clone(), complete)),
            _ => Some(("a process that has ended".into(), complete)),
        }
    });
    let Some((old, complete)) = taken else {
        return Ok(());
    };
    let problem = format!("two processes say that they are rank {rank}: {old}, and {who}");
    if !complete {
        // Some other rank will be missing for ever.
        book.fail(join_error(book, rank, &problem));
    }
    Err(problem)
}

/// Exchanges signs of life with a rank until it goes.
fn watch(book: &Arc<Book>, hello: &Hello, mut inbox: Inbox, outbox: &Outbox) {
    let rank = hello.rank;
    let pulse = book.heartbeat / 4;
    let (mut silence, mut spoke) = (Silence::default(), Instant::now());
    // A rank that joins a world that is broken is told at once.
    let fault = book.pages().fault.clone();
    if let Some(fault) = fault {
        let _ = outbox.send(&Message::Fault(fault));
    }
    while !book.is_closing() {
        if spoke.elapsed() >= pulse {
            spoke = Instant::now();
            let _ = outbox.send(&Message::Beat(String::new()));
        }
        match silence.listen(&mut inbox, pulse.min(GLANCE)) {
            Ok(None) => {}
            Ok(Some(message)) => hear(book, rank, message),
            Err(_) => break,
        }
        if silence.is_longer_than(book.heartbeat) {
            let silent = format!("no sign of life for {:?}", book.heartbeat);
            lose(book, rank, &silent);
            // It may wake up: it is then told what has happened.
            silence = Silence::default();
        }
    }
    if book.is_closing() {
        return;
    }
    lose(book, rank, "its process closed the connection");
    book.turn(|pages| {
        if !matches!(pages.seats[rank], Guest::Left) {
            pages.seats[rank] = Guest::Gone;
        }
    });
}

/// Acts on what a rank says.
fn hear(book: &Arc<Book>, rank: usize, message: Message) {
    match message {
        Message::Beat(doing) => book.turn(|pages| {
            if let Guest::Here { did, .. } = &mut pages.seats[rank] {
                *did = line(&doing);
            }
        }),
        Message::Fault(error) => book.fail(shortened(&error)),
        Message::Suspect { peer, why } if peer < book.world => {
            let why = line(&why);
            let book = book.clone();
            let judge = move || {
                // Its own connection knows better, if it is about to end as well.
                let verdict = book.wait(DOUBT, |pages| pages.fault.clone());
                if verdict.is_none() {
                    // Also one that has said goodbye: somebody still needed it.
                    lost(&book, peer, &why);
                }
            };
            // Without a thread the suspicion is lost; the heartbeat still finds the dead.
            let _ = std::thread::Builder::new()
                .name("rendezvous judge".into())
                .spawn(judge);
        }
        Message::Bye => {
            log::debug!("rendezvous: rank {rank} is done");
            // Told outside of the lock, and to the one that has just left as well.
            let mut outboxes = Vec::new();
            book.turn(|pages| {
                let old = std::mem::replace(&mut pages.seats[rank], Guest::Left);
                if let Guest::Here { outbox, .. } = old {
                    pages.leaving.push(outbox);
                }
                if pages.seats.iter().all(|s| matches!(s, Guest::Left)) {
                    outboxes = std::mem::take(&mut pages.leaving);
                }
            });
            for outbox in outboxes {
                let _ = outbox.send(&Message::AllDone);
            }
        }
        _ => {}
    }
}

/// Breaks the world because of a rank, unless that rank is known to be done.
fn lose(book: &Book, rank: usize, why: &str) {
    let left = matches!(book.pages().seats[rank], Guest::Left);
    if !left {
        lost(book, rank, why);
    }
}

/// Breaks the world because of a rank.
fn lost(book: &Book, rank: usize, why: &str) {
    let did = match &book.pages().seats[rank] {
        Guest::Here { who, did, .. } if did.is_empty() => who.clone(),
        Guest::Here { who, did, .. } => format!("{who}, last seen in {did}"),
        _ => String::new(),
    };
    let why = if did.is_empty() {
        why.into()
    } else {
        format!("{why} ({did})")
    };
    let waiting = String::new();
    book.fail(Error::PeerLost {
        peer: rank,
        why,
        waiting,
    });
}

/// Answers requests until the rank goes.
fn store(book: &Book, hello: &Hello, mut inbox: Inbox, outbox: &Outbox) {
    while !book.is_closing() {
        let request = match inbox.next(GLANCE) {
            Ok(Some(Message::Ask(request))) => request,
            Ok(None) => continue,
            _ => return,
        };
        let answer = answer(book, hello.rank, request);
        if outbox.send(&Message::Answer(answer)).is_err() {
            return;
        }
    }
}

fn answer(book: &Book, rank: usize, request: Request) -> Answer {
    match request {
        Request::Set { key, value } => {
            book.turn(|pages| pages.values.insert(key, value));
            Answer::Done
        }
        Request::Get { key } => Answer::Value(book.pages().values.get(&key).cloned()),
        Request::Wait { key, millis } => book
            .wait(Duration::from_millis(millis), |pages| {
                let value = pages.values.get(&key).cloned();
                let fault = || pages.fault.clone().map(Answer::Fault);
                value.map(|v| Answer::Value(Some(v))).or_else(fault)
            })
            .unwrap_or(Answer::Value(None)),
        Request::Add { key, by } => book.turn(|pages| {
            let value = pages
                .values
                .entry(key.clone())
                .or_insert_with(|| "0".into());
            match value.parse::<i64>() {
                Ok(old) => {
                    let new = old.wrapping_add(by);
                    *value = new.to_string();
                    Answer::Number(new)
                }
                Err(_) => {
                    let (key, value) = (line(&key), line(value));
                    Answer::Refused(format!("{key} holds {value:?}, which is no number"))
                }
            }
        }),
        Request::Barrier { name, millis } => barrier(book, rank, &name, millis),
    }
}

fn barrier(book: &Book, rank: usize, name: &str, millis: u64) -> Answer {
    let round = book.turn(|pages| {
        let Barrier { round, here } = pages.barriers.entry(name.into()).or_default();
        let mine = *round;
        here.insert(rank);
        if here.len() == book.world {
            here.clear();
            *round += 1;
        }
        mine
    });
    let over = book.wait(Duration::from_millis(millis), |pages| {
        let over = pages.barriers.get(name).is_some_and(|b| b.round > round);
        let fault = || pages.fault.clone().map(Answer::Fault);
        over.then_some(Answer::Done).or_else(fault)
    });
    over.unwrap_or_else(|| {
        let pages = book.pages();
        let here = pages.barriers.get(name).map(|b| &b.here);
        let missing = |r: &usize| here.is_none_or(|here| !here.contains(r));
        Answer::Missing((0..book.world).filter(missing).collect())
    })
}
