//! Failures of links, peers and programs in a mesh: the same error on every rank, soon, and never wrong data.

use crate::mesh::World;
use burn_dist::comm::mesh::Transport::{self, Shm, Tcp};
use burn_dist::comm::{Communicator, Reduce, Span, SpanMut};
use burn_dist::{Error, Result};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Every test ends within this time, far below the deadlines it does not test.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs a world that must fail in time, and returns each rank's error.
fn errors(world: &World, body: impl Fn(&Communicator) -> Result<()> + Sync) -> Vec<Error> {
    let since = Instant::now();
    let ranks = world.run(body).into_iter().enumerate();
    let errors = ranks.map(|(rank, result)| match result {
        Err(error) => error,
        Ok(()) => panic!("rank {rank} did not fail"),
    });
    let errors = errors.collect();
    assert!(since.elapsed() < LIMIT, "it took {:?}", since.elapsed());
    errors
}

fn assert_mentions(error: &Error, words: &[&str]) {
    let message = error.to_string();
    for word in words {
        assert!(
            message.contains(word),
            "{message:?} should mention {word:?}"
        );
    }
}

/// An all-gather of `len` numbers a rank, checked.
fn gather(comm: &Communicator, len: usize) -> Result<()> {
    let mine = vec![comm.rank() as f32; len];
    let mut all = vec![-1.0f32; len * comm.size()];
    comm.all_gather(&"unit".into(), Span::of(&mine), SpanMut::of(&mut all))?;
    for (place, x) in all.iter().enumerate() {
        assert_eq!(*x, (place / len) as f32, "rank {} at {place}", comm.rank());
    }
    Ok(())
}

fn sum(comm: &Communicator, unit: &str, len: usize) -> Result<()> {
    let mut buffer = vec![1.0f32; len];
    comm.all_reduce(&unit.into(), Reduce::Sum, SpanMut::of(&mut buffer))?;
    assert!(buffer.iter().all(|x| *x == comm.size() as f32));
    Ok(())
}

#[test]
fn different_calls_are_the_same_error_on_all_ranks() {
    type Body = fn(&Communicator) -> Result<()>;
    // Another length, another collective, another unit, another type, one call left out.
    let odd: [(Body, &str); 5] = [
        (|comm| sum(comm, "a", 65), "(65 f32)"),
        (|comm| comm.barrier(&"a".into()), "barrier of a"),
        (|comm| sum(comm, "b", 64), "of b"),
        (
            |comm| comm.all_reduce(&"a".into(), Reduce::Sum, SpanMut::of(&mut [0u32; 64])),
            "u32",
        ),
        (|comm| sum(comm, "next", 64), "of next #1"),
    ];
    for transport in [Tcp, Shm] {
        for ranks in [2, 3, 5] {
            for (odd_call, word) in odd {
                let errors = errors(&World::new(ranks, transport), |comm| {
                    sum(comm, "first", 8)?;
                    match comm.rank() {
                        1 => odd_call(comm)?,
                        _ => sum(comm, "a", 64)?,
                    }
                    sum(comm, "next", 64)
                });
                assert!(errors.iter().all(|e| *e == errors[0]), "{errors:?}");
                // Of two ranks neither is in the minority.
                if ranks > 2 {
                    assert!(
                        matches!(errors[0], Error::Mismatch { peer: 1, .. }),
                        "{errors:?}"
                    );
                }
                assert_mentions(&errors[0], &[word, "all_reduce(Sum) of a #1"]);
            }
        }
    }
}

#[test]
fn no_buffer_is_touched_before_all_agree() {
    for transport in [Tcp, Shm] {
        let world = World::new(3, transport);
        errors(&world, |comm| {
            let len = 1000 + usize::from(comm.rank() == 2);
            let mut all = vec![7u8; len * 3];
            let mine = vec![1u8; len];
            let error = comm
                .all_gather(&"a".into(), Span::of(&mine), SpanMut::of(&mut all))
                .unwrap_err();
            let place = len * comm.rank();
            all[place..place + len].fill(7);
            assert!(all.iter().all(|x| *x == 7));
            Err(error)
        });
    }
}

#[test]
fn a_rank_that_never_joins_is_named() {
    for transport in [Tcp, Shm] {
        let world = World {
            // Longer than a busy machine keeps a rank away that does come.
            deadline: Duration::from_millis(2500),
            ..World::new(3, transport)
        };
        let errors = errors(&world, |comm| {
            let since = Instant::now();
            while comm.rank() == 1 && comm.fault().is_none() && since.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(5));
            }
            sum(comm, "layer", 100)
        });
        for error in &errors {
            assert_eq!(*error, errors[0]);
            let Error::Timeout { missing, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(missing[..], [1]);
            assert_mentions(error, &["all_reduce(Sum) of layer #0, step 0"]);
        }
    }
}

#[test]
fn a_rank_that_returns_early_is_named() {
    for transport in [Tcp, Shm] {
        let errors = errors(&World::new(3, transport), |comm| {
            // Its last data must arrive although it leaves at once.
            gather(comm, 300_000)?;
            if comm.rank() == 2 {
                return Ok(());
            }
            sum(comm, "more", 9)
        });
        for error in &errors {
            assert!(matches!(error, Error::PeerLeft { peer: 2, .. }), "{error}");
        }
    }
}

#[test]
fn a_failure_reaches_ranks_inside_and_outside_of_collectives() {
    for transport in [Tcp, Shm] {
        let errors = errors(&World::new(4, transport), |comm| match comm.rank() {
            1 => {
                std::thread::sleep(Duration::from_millis(100));
                Err(Error::user("no more disk"))
            }
            2 => {
                std::thread::sleep(Duration::from_millis(600));
                sum(comm, "late", 9)
            }
            _ => sum(comm, "early", 9),
        });
        assert!(
            errors.iter().all(|e| *e == Error::user("no more disk")),
            "{errors:?}"
        );
    }
}

/// What a proxy does to the connection between two ranks.
#[derive(Clone, Copy)]
enum Damage {
    /// Closes it after so many bytes.
    Cut(usize),
    /// Turns a bit of the byte with this number.
    Flip(usize),
}

/// A proxy in front of a rank, which damages the first connection.
fn proxy(damage: Damage) -> impl Fn(SocketAddr) -> SocketAddr + Send + Sync {
    move |target| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            // Only the first connection is damaged.
            for (number, caller) in listener.incoming().take(2).enumerate() {
                let damage = (number == 0).then_some(damage);
                let Ok(caller) = caller else { return };
                let Ok(called) = TcpStream::connect(target) else {
                    return;
                };
                let (back, forth) = (caller.try_clone().unwrap(), called.try_clone().unwrap());
                std::thread::spawn(move || pass(caller, forth, damage));
                std::thread::spawn(move || pass(called, back, None));
            }
        });
        address
    }
}

/// Copies bytes from one connection to another, until something ends.
fn pass(mut from: TcpStream, mut to: TcpStream, damage: Option<Damage>) {
    let (mut bytes, mut passed) = ([0; 5000], 0);
    loop {
        let n = from.read(&mut bytes).unwrap_or(0);
        let mut keep = n;
        match damage {
            Some(Damage::Cut(at)) if passed + n >= at => keep = at.saturating_sub(passed),
            Some(Damage::Flip(at)) if (passed..passed + n).contains(&at) => bytes[at - passed] ^= 4,
            _ => {}
        }
        let sent = to.write_all(&bytes[..keep]);
        if n == 0 || keep < n || sent.is_err() {
            let _ = to.shutdown(std::net::Shutdown::Both);
            let _ = from.shutdown(std::net::Shutdown::Both);
            return;
        }
        passed += n;
    }
}

fn damaged(ranks: usize, damage: Damage) -> World {
    World {
        advertise: Some((0, Arc::new(proxy(damage)))),
        ..World::new(ranks, Transport::Tcp)
    }
}

#[test]
fn a_cut_connection_is_the_same_error_on_all_ranks() {
    // Within a header, within a description, within data, between frames; far into it.
    for at in [50, 80, 130, 5_000, 70_000, 400_000] {
        for ranks in [2, 3] {
            let errors = errors(&damaged(ranks, Damage::Cut(at)), |comm| {
                for _ in 0..4 {
                    gather(comm, 60_000)?;
                }
                Ok(())
            });
            let verdict = |error: &Error| match error {
                Error::PeerLost { peer, why, waiting } => {
                    // Each rank also says what it was doing.
                    assert!(
                        waiting.is_empty() || waiting.contains("all_gather of "),
                        "{waiting}"
                    );
                    (*peer, why.clone())
                }
                other => panic!("cut at {at}: {other}"),
            };
            for error in &errors {
                assert_eq!(verdict(error), verdict(&errors[0]));
                assert_mentions(error, &["all_gather of ", "step 0"]);
            }
        }
    }
}

#[test]
fn a_damaged_frame_is_never_taken_for_data() {
    // The first 41 bytes are the greeting; then headers, descriptions, data.
    for at in [45, 60, 75, 100, 140, 1_000, 131_000, 200_000, 300_000] {
        let errors = errors(&damaged(3, Damage::Flip(at)), |comm| {
            for _ in 0..4 {
                gather(comm, 60_000)?;
            }
            Ok(())
        });
        for error in &errors {
            assert_eq!(*error, errors[0]);
            assert!(
                matches!(error, Error::Corrupt { rank: 0, .. }),
                "flip at {at}: {error}"
            );
            assert_mentions(error, &["all_gather of "]);
        }
    }
}

#[test]
fn a_stranger_on_a_ranks_port_is_ignored() {
    let stranger = |target: SocketAddr| {
        for words in [
            &b"GET / HTTP/1.1\r\nHost: example\r\n\r\n0123456789"[..],
            b"",
            b"\0\0",
        ] {
            let mut socket = TcpStream::connect(target).unwrap();
            let _ = socket.write_all(words);
        }
        // Many send nothing, and one sends a byte now and then: none of them delays a rank.
        let silent = [(); 100].map(|()| TcpStream::connect(target).unwrap());
        std::thread::spawn(move || {
            for _ in 0..200 {
                std::thread::sleep(Duration::from_millis(500));
                let _ = (&silent[99]).write_all(b"x");
            }
        });
        target
    };
    let world = World {
        advertise: Some((0, Arc::new(stranger))),
        ..World::new(3, Transport::Auto)
    };
    for result in world.run(|comm| gather(comm, 1000)) {
        assert_eq!(result, Ok(()));
    }
}
