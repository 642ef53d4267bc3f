//! The rendezvous: its key-value store, which ranks it accepts, and missing ranks.

use crate::mesh;
use burn_dist::comm::mesh::Transport;
use burn_dist::rendezvous::{Seat, Secret, Server, Terms};
use burn_dist::{Error, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const LONG_TIMEOUT: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(15);

/// The terms of a rank with a long timeout.
fn terms(world: usize, rank: usize, port: u16) -> Terms {
    mesh::World::new(world, Transport::Auto).terms(rank, port)
}

/// The same with a short timeout, for ranks that wait in vain.
fn with_short_timeout(terms: Terms) -> Terms {
    let patience = Duration::from_millis(500);
    Terms { patience, ..terms }
}

/// The same with a longer timeout, for ranks that wait in vain after joining others on a busy machine.
fn with_longer_timeout(terms: Terms) -> Terms {
    let patience = Duration::from_secs(3);
    Terms { patience, ..terms }
}

/// Runs ranks on threads: each joins with its terms and then runs `f`.
fn meet<T: Send>(ranks: Vec<Terms>, f: impl Fn(&Seat) -> Result<T> + Sync) -> Vec<Result<T>> {
    let since = Instant::now();
    let f = &f;
    let results = std::thread::scope(|scope| {
        let one = |terms| scope.spawn(move || Seat::take(terms).and_then(|seat| f(&seat)));
        let running: Vec<_> = ranks.into_iter().map(one).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(since.elapsed() < LIMIT, "it took {:?}", since.elapsed());
    results
}

/// A world in which rank `odd` has other terms.
fn with_one_different(
    world: usize,
    odd: usize,
    change: impl Fn(&mut Terms),
) -> (Vec<Result<()>>, Server) {
    let server = Server::start(&terms(world, 0, 0)).unwrap();
    let ranks = (0..world).map(|rank| {
        let mut terms = terms(world, rank, server.port());
        if rank == odd {
            change(&mut terms);
        }
        terms
    });
    (meet(ranks.collect(), |_| Ok(())), server)
}

fn assert_mentions(result: &Result<()>, words: &[&str]) {
    let message = result.as_ref().expect_err("this must fail").to_string();
    for word in words {
        assert!(
            message.contains(word),
            "{message:?} should mention {word:?}"
        );
    }
}

#[test]
fn the_store_keeps_what_ranks_tell_each_other() {
    let server = Server::start(&terms(3, 0, 0)).unwrap();
    let ranks = (0..3).map(|rank| terms(3, rank, server.port())).collect();
    let results = meet(ranks, |seat| {
        let rank = seat.terms().rank;
        assert_eq!(seat.get("nothing")?, None);
        if rank == 2 {
            std::thread::sleep(Duration::from_millis(50));
            seat.set("word", "\"quoted\"\n")?;
        }
        assert_eq!(seat.wait("word", LONG_TIMEOUT)?, "\"quoted\"\n");
        seat.add("count", 1 + rank as i64)?;
        // Of one name as often as one likes.
        for _ in 0..20 {
            seat.barrier("all", LONG_TIMEOUT)?;
        }
        assert_eq!(seat.add("count", 0)?, 6);
        let refused = seat.add("word", 1).unwrap_err();
        assert!(matches!(refused, Error::Config { .. }), "{refused}");
        seat.leave()
    });
    assert_eq!(results, [Ok(()), Ok(()), Ok(())]);
}

#[test]
fn waiting_for_a_value_has_a_deadline() {
    let server = Server::start(&terms(1, 0, 0)).unwrap();
    let results = meet(vec![terms(1, 0, server.port())], |seat| {
        seat.wait("never", Duration::from_millis(100)).map(drop)
    });
    assert_mentions(&results[0], &["the value of never", "100ms"]);
}

#[test]
fn a_rank_that_never_joins_is_named() {
    let server = Server::start(&terms(4, 0, 0)).unwrap();
    let come = [0, 2].map(|rank| with_longer_timeout(terms(4, rank, server.port())));
    for result in meet(come.into(), |_| Ok(())) {
        assert!(matches!(result, Err(Error::Join { .. })), "{result:?}");
        assert_mentions(&result, &["only 2 of 4", "rank(s) [1, 3] did not"]);
        assert_mentions(
            &result,
            &["its world at", &format!("127.0.0.1:{}", server.port())],
        );
    }
}

#[test]
fn a_missing_rank_0_is_an_error_that_says_so() {
    // No server listens there, and the system does not assign this port.
    let port = 1;
    let results = meet(vec![with_short_timeout(terms(2, 1, port))], |_| Ok(()));
    let address = format!("127.0.0.1:{port}");
    assert_mentions(
        &results[0],
        &["rank 1", &address, "is rank 0 running", "--master-port"],
    );
    let lost = Terms {
        master: "no-such-host.invalid".into(),
        ..with_short_timeout(terms(2, 1, port))
    };
    let results = meet(vec![lost], |_| Ok(()));
    assert_mentions(&results[0], &["no-such-host.invalid"]);
}

#[test]
fn a_rank_0_that_cannot_be_reached_does_not_wait_for_the_others() {
    // As where the address is another host's: nothing of its own answers there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let since = Instant::now();
    let refused = Seat::take(Terms {
        patience: Duration::from_secs(300),
        ..terms(2, 0, port)
    });
    assert!(
        since.elapsed() < LONG_TIMEOUT,
        "it took {:?}",
        since.elapsed()
    );
    let words = ["rank 0", "does not answer", "--master-addr"];
    assert_mentions(&refused.map(drop), &words);
}

#[test]
fn a_port_in_use_is_an_error_that_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused = Server::start(&terms(1, 0, port)).map(drop);
    assert_mentions(
        &refused,
        &[&format!("127.0.0.1:{port}"), "free port", "in use"],
    );
    let elsewhere = Terms {
        master: "no-such-host.invalid".into(),
        ..terms(1, 0, 0)
    };
    assert_mentions(
        &Server::start(&elsewhere).map(drop),
        &["no-such-host.invalid"],
    );
}

#[test]
fn another_world_size_ends_all_ranks() {
    let (results, _server) = with_one_different(3, 1, |terms| terms.world = 4);
    for result in &results {
        assert_mentions(result, &["rank 1", "a world of 4", "rank 0 for 3"]);
    }
}

#[test]
fn a_rank_taken_twice_ends_all_ranks() {
    let (results, _server) = with_one_different(3, 2, |terms| terms.rank = 1);
    for result in &results {
        assert_mentions(
            result,
            &["two processes say that they are rank 1", "on here"],
        );
    }
}

#[test]
fn a_late_duplicate_rank_is_refused_alone() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let port = server.port();
    let ranks = (0..2).map(|rank| terms(2, rank, port)).collect();
    let results = meet(ranks, |seat| {
        if seat.terms().rank == 0 {
            let late = Seat::take(terms(2, 1, port)).map(drop);
            assert_mentions(&late, &["two processes", "rank 1"]);
        }
        seat.barrier("after", LONG_TIMEOUT)?;
        seat.leave()
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}

#[test]
fn a_rank_with_another_secret_is_refused_and_the_world_continues() {
    let server = Server::start(&terms(1, 0, 0)).unwrap();
    let stranger = Terms {
        secret: Secret::new("other"),
        ..terms(1, 0, server.port())
    };
    let results = meet(vec![stranger], |_| Ok(()));
    assert_mentions(&results[0], &["another secret", "BURN_DIST_SECRET"]);
    assert_eq!(
        meet(vec![terms(1, 0, server.port())], |seat| seat.leave()),
        [Ok(())]
    );
}

#[test]
fn an_earlier_attempt_is_refused_and_a_later_one_waits() {
    let current = Terms {
        attempt: 1,
        ..terms(1, 0, 0)
    };
    let server = Server::start(&current).unwrap();
    let early = Terms {
        attempt: 0,
        ..terms(1, 0, server.port())
    };
    let results = meet(vec![early], |_| Ok(()));
    assert_mentions(&results[0], &["attempt 0", "attempt 1"]);
    let late = Terms {
        attempt: 2,
        ..with_short_timeout(terms(1, 0, server.port()))
    };
    let results = meet(vec![late], |_| Ok(()));
    assert_mentions(&results[0], &["has not restarted yet"]);
}

#[test]
fn unknown_connections_neither_stop_nor_delay_a_world() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let port = server.port();
    let endless = vec![b'x'; 1 << 16];
    let length = 20u32.to_le_bytes();
    let rubbish: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        b"\0",
        &endless,
        &length,
        b"\x07\0\0\0{\"Bye\":",
    ];
    let mut open = Vec::new();
    for words in rubbish {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = socket.write_all(words);
        open.push(socket);
    }
    // A connection that claims to be a rank, without a proof.
    let mut liar = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let hello = br#"{"Hello":[{"protocol":1,"version":"x","purpose":"Watch","rank":1,"world":2,"attempt":0,"host":"h","pid":1},"00"]}"#;
    liar.write_all(&(hello.len() as u32).to_le_bytes()).unwrap();
    liar.write_all(hello).unwrap();
    let since = Instant::now();
    let ranks = (0..2).map(|rank| terms(2, rank, port)).collect();
    let results = meet(ranks, |seat| {
        seat.barrier("b", LONG_TIMEOUT)?;
        seat.leave()
    });
    assert_eq!(results, [Ok(()), Ok(())]);
    // The server closes a connection without a proof after 5 s: no rank has waited for one of them.
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
    let mut answer = Vec::new();
    liar.set_read_timeout(Some(LIMIT)).unwrap();
    liar.shutdown(Shutdown::Write).unwrap();
    let _ = liar.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("Welcome"), "{answer}");
}

#[test]
fn another_protocol_is_named_with_both_versions() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let hello = br#"{"Hello":[{"protocol":99,"version":"9.9.9","purpose":"Watch","rank":1,"world":2,"attempt":0,"host":"h","pid":1},"00"]}"#;
    socket
        .write_all(&(hello.len() as u32).to_le_bytes())
        .unwrap();
    socket.write_all(hello).unwrap();
    let mut answer = vec![0; 4096];
    let n = socket.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[4..n]).into_owned();
    for word in ["Refused", "burn-dist 9.9.9 (protocol 99)", "(protocol 1)"] {
        assert!(answer.contains(word), "{answer}");
    }
}

#[test]
fn another_service_on_the_port_is_recognised() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in other.incoming().flatten() {
            let mut socket = socket;
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let results = meet(vec![terms(2, 1, port)], |_| Ok(()));
    assert_mentions(&results[0], &["not burn-dist", "--master-port"]);
}

#[test]
fn a_rank_that_fails_while_others_join_ends_them() {
    let server = Server::start(&terms(3, 0, 0)).unwrap();
    let port = server.port();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || Seat::take(terms(3, 1, port)).map(drop));
        // Rank 2 joins and gives up before rank 0 comes.
        let gone = Seat::take(with_longer_timeout(terms(3, 2, port))).map(drop);
        assert_mentions(&gone, &["rank(s) [0]"]);
        // The error of the other rank names the missing rank, not only the one that gave up.
        assert_eq!(waiting.join().unwrap(), gone);
    });
}

#[test]
fn a_rank_that_closes_without_leaving_is_lost_on_all() {
    let server = Server::start(&terms(3, 0, 0)).unwrap();
    let ranks = (0..3).map(|rank| terms(3, rank, server.port())).collect();
    let results = meet(ranks, |seat| {
        seat.describe(|| "sum of layer.3 #17, step 4".into());
        seat.barrier("b", LONG_TIMEOUT)?;
        match seat.terms().rank {
            1 => Ok(()),
            _ => seat.barrier("never", LONG_TIMEOUT),
        }
    });
    for rank in [0, 2] {
        assert!(
            matches!(results[rank], Err(Error::PeerLost { peer: 1, .. })),
            "{results:?}"
        );
        assert_mentions(&results[rank], &["rank 1 is lost", "closed the connection"]);
    }
}

#[test]
fn all_ranks_get_the_first_failure() {
    let server = Server::start(&terms(4, 0, 0)).unwrap();
    let ranks = (0..4).map(|rank| terms(4, rank, server.port())).collect();
    let results: Vec<Result<()>> = meet(ranks, |seat| {
        let rank = seat.terms().rank;
        seat.barrier("b", LONG_TIMEOUT)?;
        if rank == 3 {
            std::thread::sleep(Duration::from_millis(300));
        }
        Err(seat.abort(Error::user(format!("rank {rank} has a headache"))))
    });
    assert!(results.iter().all(|r| *r == results[0]), "{results:?}");
}

#[test]
fn leaving_waits_for_all_ranks() {
    let server = Server::start(&terms(2, 0, 0)).unwrap();
    let ranks = (0..2).map(|rank| terms(2, rank, server.port())).collect();
    let since = Instant::now();
    let results = meet(ranks, |seat| {
        if seat.terms().rank == 1 {
            std::thread::sleep(Duration::from_millis(400));
        }
        seat.leave()?;
        assert!(since.elapsed() >= Duration::from_millis(400));
        Ok(())
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}

#[test]
fn rank_0_listens_on_all_addresses_only_with_several_hosts() {
    for several_hosts in [false, true] {
        // The address that a first host may have for itself.
        let own = Terms {
            several_hosts,
            ..terms(2, 0, 0)
        };
        let server = Server::start(&own).unwrap();
        let port = server.port();
        // Another address of this machine.
        let other = TcpStream::connect(("127.0.0.2", port));
        assert_eq!(other.is_ok(), several_hosts, "{other:?}");
        let ranks = [0, 1].map(|rank| Terms {
            rank,
            port,
            ..own.clone()
        });
        let results = meet(ranks.into(), |seat| {
            let (ip, home) = (seat.local(), "127.0.0.1:5".parse().unwrap());
            assert_eq!(ip.is_unspecified(), several_hosts);
            assert_eq!(seat.reached((ip, 5).into()), home);
            assert_eq!(seat.reached(home), home);
            seat.leave()
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

#[test]
fn a_taken_port_is_skipped() {
    // Another program's server, which answers, and after its port a free one.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut socket in taken.incoming().flatten() {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let somewhere = |rank| Terms {
        more_ports: 15,
        // On the ports after it there may be servers of other tests.
        secret: Secret::new("of this world alone"),
        ..terms(2, rank, port)
    };
    let server = Server::start(&somewhere(0)).unwrap();
    assert!((port + 1..=port.saturating_add(15)).contains(&server.port()));
    let results = meet(vec![somewhere(0), somewhere(1)], Seat::leave);
    assert_eq!(results, [Ok(()), Ok(())]);
}
