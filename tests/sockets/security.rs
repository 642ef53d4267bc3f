//! Attacks from the network on a world: each line of `SECURITY.md`.
//!
//! The attackers here speak the protocol of the wire: a length, followed by JSON.

use crate::mesh;
use burn_dist::comm::mesh::Transport;
use burn_dist::rendezvous::{Seat, Secret, Server, Terms};
use burn_dist::{Error, Result};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

const LONG_TIMEOUT: Duration = Duration::from_secs(60);
/// The time in which the rendezvous expects a client's proof.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

fn terms(world: usize, rank: usize, port: u16) -> Terms {
    mesh::World::new(world, Transport::Auto).terms(rank, port)
}

/// Runs ranks on threads: each joins with its terms and then runs `f`.
fn meet<T: Send>(ranks: Vec<Terms>, f: impl Fn(&Seat) -> Result<T> + Sync) -> Vec<Result<T>> {
    let f = &f;
    std::thread::scope(|scope| {
        let one = |terms| scope.spawn(move || Seat::take(terms).and_then(|seat| f(&seat)));
        let running: Vec<_> = ranks.into_iter().map(one).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Checks that two ranks can join, communicate and leave.
fn expect_world_works(port: u16) {
    let ranks = (0..2).map(|rank| terms(2, rank, port)).collect();
    let results = meet(ranks, |seat| {
        seat.barrier("b", LONG_TIMEOUT)?;
        assert_eq!(seat.get("planted")?, None);
        seat.leave()
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}

/// A client that does not know the secret.
struct UnknownClient(TcpStream);

impl UnknownClient {
    fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(LONG_TIMEOUT)).unwrap();
        Self(socket)
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        let _ = self.0.write_all(&(text.len() as u32).to_le_bytes());
        let _ = self.0.write_all(text.as_bytes());
    }

    /// The next message, or `None` at the end of the connection.
    fn receive(&mut self) -> Option<Value> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut text = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut text).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// All messages until the end of the connection; checks that none is a welcome.
    fn refused(mut self) -> String {
        let _ = self.0.shutdown(Shutdown::Write);
        let all: Vec<_> = std::iter::from_fn(|| self.receive()).collect();
        let text = format!("{all:?}");
        assert!(!text.contains("Welcome"), "{text}");
        text
    }
}

fn hello(purpose: &str, rank: usize, number: &str) -> Value {
    let hello = json!({"protocol": 1, "version": "x", "purpose": purpose, "rank": rank, "world": 2,
        "attempt": 0, "host": "h", "pid": 1});
    json!({"Hello": [hello, number]})
}

fn assert_mentions<T: std::fmt::Debug>(result: &Result<T>, words: &[&str]) {
    let message = result.as_ref().expect_err("this must fail").to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

/// Lines that the library has logged.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn capture_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOG).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

#[test]
fn a_connection_without_a_proof_has_no_effect() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let fault = json!({"Fault": {"User": "the end"}});
    let plant = json!({"Ask": {"Set": {"key": "planted", "value": "x"}}});
    for (purpose, word) in [
        ("Watch", fault.clone()),
        ("Watch", json!({"Suspect": {"peer": 1, "why": "dead"}})),
        ("Watch", json!("Bye")),
        ("Store", plant.clone()),
        ("Store", json!({"Proof": "00".repeat(32)})),
    ] {
        let mut client = UnknownClient::connect(server.port());
        client.send(&hello(purpose, 1, "00"));
        assert!(client.receive().unwrap().get("Challenge").is_some());
        client.send(&word);
        // Messages as from an accepted rank.
        client.send(&fault);
        client.send(&plant);
        let answer = client.refused();
        assert!(answer.contains("its secret is not rank 0's"), "{answer}");
    }
    let mut rude = UnknownClient::connect(server.port());
    rude.send(&fault);
    rude.refused();
    expect_world_works(server.port());
}

#[test]
fn a_reflected_proof_is_refused() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let mut first = UnknownClient::connect(server.port());
    first.send(&hello("Watch", 1, "00"));
    let challenge = first.receive().unwrap();
    let number = challenge["Challenge"][0].as_str().unwrap();
    // A second call has the server prove the number that it wants to see proven.
    let mut second = UnknownClient::connect(server.port());
    second.send(&hello("Watch", 1, number));
    let challenge = second.receive().unwrap();
    first.send(&json!({"Proof": challenge["Challenge"][1]}));
    let answer = first.refused();
    assert!(answer.contains("its secret is not rank 0's"), "{answer}");
    drop(second);
    expect_world_works(server.port());
}

#[test]
fn replayed_messages_are_refused() {
    let server = Server::start(&terms(1, 0, 0)).unwrap();
    let port = server.port();
    // A proxy to the server, which records all messages.
    let ear = TcpListener::bind("127.0.0.1:0").unwrap();
    let overheard = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let (heard, near) = (overheard.clone(), ear.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for mut rank in ear.incoming().flatten() {
            let mut far = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let place = heard.lock().unwrap().len();
            heard.lock().unwrap().push(Vec::new());
            let (mut back, mut home) = (far.try_clone().unwrap(), rank.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut home));
            let heard = heard.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(n @ 1..) = rank.read(&mut bytes) {
                    heard.lock().unwrap()[place].extend(&bytes[..n]);
                    let _ = far.write_all(&bytes[..n]);
                }
                let _ = far.shutdown(Shutdown::Write);
            });
        }
    });
    assert_eq!(meet(vec![terms(1, 0, near)], |seat| seat.leave()), [Ok(())]);
    let overheard = overheard.lock().unwrap().clone();
    assert_eq!(overheard.len(), 2);
    for words in overheard {
        let said = String::from_utf8_lossy(&words);
        assert!(said.contains("Proof"));
        // The secret itself is never sent.
        assert!(!said.contains("test"), "{said}");
        let mut client = UnknownClient::connect(port);
        let _ = client.0.write_all(&words);
        let answer = client.refused();
        assert!(answer.contains("its secret is not rank 0's"), "{answer}");
    }
}

/// A server in place of rank 0, and the messages that it has received.
fn impostor(answer: Value) -> (u16, Arc<Mutex<String>>) {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(String::new()));
    let told = heard.clone();
    std::thread::spawn(move || {
        for socket in door.incoming().flatten() {
            let mut caller = UnknownClient(socket);
            while let Some(message) = caller.receive() {
                *told.lock().unwrap() += &message.to_string();
                caller.send(&answer);
            }
        }
    });
    (port, heard)
}

#[test]
fn a_rank_sends_no_proof_to_an_impostor() {
    let challenge = json!({"Challenge": ["00", "00".repeat(32)]});
    let (port, heard) = impostor(challenge);
    let result = Seat::take(terms(2, 1, port)).map(drop);
    assert_mentions(&result, &["another secret", "BURN_DIST_SECRET"]);
    let heard = heard.lock().unwrap().clone();
    assert!(
        heard.contains("Hello") && !heard.contains("Proof"),
        "{heard}"
    );
}

#[test]
fn messages_of_an_impostor_are_short_escaped_and_not_trusted() {
    let wild = format!("\u{1b}[2J\u{1b}[1;31m\r\n{}", "x".repeat(3000));
    let refused = json!({"Refused": {"problem": wild, "again": false}});
    let fault = json!({"Fault": {"PeerFailed": {"peer": 0, "cause": wild}}});
    for answer in [refused, fault, json!({"Beat": wild}), json!({ &wild: 1 })] {
        let (port, _) = impostor(answer);
        let error = Seat::take(terms(2, 1, port)).map(drop).unwrap_err();
        // Not the fault of a world that this rank has never seen.
        assert!(matches!(error, Error::Join { .. }), "{error}");
        let text = error.to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.len() < 1000, "{} bytes", text.len());
    }
}

#[test]
fn unknown_connections_add_few_log_lines() {
    capture_log();
    const CALLERS: usize = 300;
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let wild = format!("\u{1b}[2J\r\nerror: all is lost{}", "x".repeat(3000));
    let mut longest = 0;
    for caller in 0..CALLERS {
        let mut client = UnknownClient::connect(server.port());
        let mut words = hello("Watch", 1, "00");
        words["Hello"][0]["protocol"] = 97.into();
        words["Hello"][0]["version"] = match caller % 2 {
            0 => wild.clone(),
            // More than a client may send before its proof.
            _ => "x".repeat(1 << 20),
        }
        .into();
        longest = longest.max(words.to_string().len());
        client.send(&words);
        client.refused();
    }
    drop(server);
    let lines = LOG.0.lock().unwrap().clone();
    // No server of another test refuses a connection for these reasons.
    let reasons = [
        "(protocol 97)".to_string(),
        format!("a message of {longest} bytes, at most 4096"),
    ];
    let of_these = |line: &&String| reasons.iter().any(|reason| line.contains(reason.as_str()));
    let said: Vec<_> = lines.iter().filter(of_these).collect();
    assert!((1..=10).contains(&said.len()), "{} lines", said.len());
    for line in &said {
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.len() < 500, "{} bytes", line.len());
    }
    for reason in &reasons {
        assert!(said.iter().any(|line| line.contains(reason)), "{said:?}");
    }
    // The rest is only counted; the server of another test may have logged the same.
    let rest = format!("turned away {} more caller(s)", CALLERS - said.len());
    assert!(lines.iter().any(|line| line.ends_with(&rest)), "{lines:?}");
}

#[test]
fn ranks_join_beside_many_silent_connections() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let silent: Vec<_> = (0..250)
        .map(|_| UnknownClient::connect(server.port()))
        .collect();
    let hurried = |rank| Terms {
        // Before the handshake's timeout of the other connections.
        patience: HANDSHAKE_TIMEOUT - Duration::from_millis(500),
        ..terms(2, rank, server.port())
    };
    let results = meet(vec![hurried(0), hurried(1)], Seat::leave);
    assert_eq!(results, [Ok(()), Ok(())]);
    drop(silent);
}

#[test]
fn ranks_of_one_host_listen_on_loopback_only() {
    for (several_hosts, master) in [(false, "0.0.0.0"), (false, "127.0.0.1"), (true, "0.0.0.0")] {
        let own = Terms {
            several_hosts,
            master: master.into(),
            ..terms(2, 0, 0)
        };
        let server = Server::start(&own).unwrap();
        // Another address of this machine: only who listens on all interfaces is found there.
        let other = TcpStream::connect(("127.0.0.2", server.port()));
        assert_eq!(other.is_ok(), several_hosts, "{master}: {other:?}");
        let ranks = [0, 1].map(|rank| Terms {
            rank,
            port: server.port(),
            ..own.clone()
        });
        let results = meet(ranks.into(), |seat| {
            assert_eq!(seat.local().is_loopback(), !several_hosts);
            seat.leave()
        });
        assert_eq!(results, [Ok(()), Ok(())]);
    }
}

#[test]
fn without_a_secret_an_unknown_connection_can_end_the_run() {
    let open = |rank, port| Terms {
        secret: Secret::default(),
        ..terms(2, rank, port)
    };
    let server = Server::start(&open(0, 0)).unwrap();
    let port = server.port();
    let results = meet(vec![open(0, port), open(1, port)], |seat| {
        seat.barrier("both", LONG_TIMEOUT)?;
        if seat.terms().rank == 0 {
            // Without a secret any client can compute the proof, as `Seat::take` does here.
            let later = Terms {
                attempt: 1,
                patience: Duration::from_millis(100),
                ..open(1, port)
            };
            assert!(Seat::take(later).is_err());
        }
        seat.barrier("never", LONG_TIMEOUT)
    });
    for result in &results {
        assert_mentions(result, &["rank 1 is lost", "started it again"]);
    }
}

#[test]
fn a_peer_with_the_secret_can_end_the_world_but_not_crash_rank_0() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let port = server.port();
    let ranks = (0..2).map(|rank| terms(2, rank, port)).collect();
    let results = meet(ranks, |seat| {
        if seat.terms().rank == 0 {
            for (rank, world) in [(7, 2), (7, 9)] {
                let odd = Terms {
                    attempt: 1,
                    world,
                    patience: Duration::from_secs(10),
                    ..terms(2, rank, port)
                };
                let refused = Seat::take(odd).map(drop);
                let why = ["has no such rank", "for a world of 9"][usize::from(world == 9)];
                assert_mentions(&refused, &["rank 7", why]);
            }
        }
        seat.barrier("after", LONG_TIMEOUT)?;
        seat.leave()
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}

#[test]
fn messages_of_a_rank_reach_the_others_short_and_escaped() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let ranks = (0..2).map(|rank| terms(2, rank, server.port())).collect();
    let results: Vec<Result<()>> = meet(ranks, |seat| {
        seat.barrier("b", LONG_TIMEOUT)?;
        if seat.terms().rank == 1 {
            let long = format!("\u{1b}[2Jone\n{}", "two ".repeat(1 << 20));
            return Err(seat.abort(Error::config(&long, &long, &long)));
        }
        seat.barrier("never", LONG_TIMEOUT)
    });
    assert_eq!(results[0], results[1]);
    let text = results[0].as_ref().unwrap_err().to_string();
    assert!(text.contains(" \\u{1b}[2Jone\ntwo two "), "{text:.80}");
    assert!(text.len() < 100_000, "{} bytes", text.len());
}
