//! Failures of a rank: all ranks get the same error soon, which names the rank and the cause.
//!
//! Ranks get a deadline far beyond a test's own limit unless the deadline is what is tested: what
//! ends in time did not end because of it.

use burn_dist::comm::{Communicator, Label, Queue, Reduce, Span, SpanMut};
use burn_dist::launch::Threads;
use burn_dist::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// Every test ends within this time.
const LIMIT: Duration = Duration::from_secs(20);
/// A deadline that no test reaches.
const LONG_DEADLINE: Duration = Duration::from_secs(120);
/// A deadline that a test waits for, and longer than a busy machine keeps a rank away.
const SHORT_DEADLINE: Duration = Duration::from_millis(2500);

/// How a world ended.
#[derive(Debug)]
struct End {
    /// The error that each rank's function returned, in rank order; none if it panicked.
    ranks: Vec<Option<Error>>,
    /// What the launcher returned.
    world: Result<()>,
}

impl End {
    /// The error of all ranks but `except`, which must be one and the same.
    fn shared(&self, except: &[usize]) -> Error {
        let ranks = self.ranks.iter().enumerate();
        let others = ranks.filter(|(rank, _)| !except.contains(rank));
        let mut errors = others.map(|(rank, error)| match error {
            Some(error) => error,
            None => panic!("rank {rank} did not fail: {self:?}"),
        });
        let first = errors.next().unwrap();
        assert!(errors.all(|error| error == first), "{self:?}");
        first.clone()
    }
}

/// Runs a world whose ranks fail, and fails itself if it does not end.
fn run(
    ranks: usize,
    deadline: Duration,
    body: impl Fn(&Communicator) -> Result<()> + Sync + Send + 'static,
) -> End {
    within(LIMIT, move || {
        let errors = Mutex::new(vec![None; ranks]);
        let world = Threads::new(ranks).deadline(deadline).run(|world| {
            let result = body(world.comm());
            errors.lock().unwrap()[world.rank()] = result.clone().err();
            result
        });
        End {
            ranks: errors.into_inner().unwrap(),
            world: world.map(drop),
        }
    })
}

/// Runs `f` on another thread, and does not wait longer for it than `limit`.
fn within<T: Send + 'static>(limit: Duration, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let thread = std::thread::spawn(move || done.send(f()));
    match result.recv_timeout(limit) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("still running after {limit:?}"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(_) => unreachable!("the thread ended without a result"),
        },
    }
}

/// The sum over the group of every member's `value`.
fn sum(comm: &Communicator, value: u64) -> Result<u64> {
    let mut buffer = [value];
    comm.all_reduce(&"sum".into(), Reduce::Sum, SpanMut::of(&mut buffer))?;
    Ok(buffer[0])
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

#[test]
fn a_world_needs_a_rank() {
    let refused = Threads::new(0).run(|_| Ok(())).unwrap_err();
    assert!(matches!(refused, Error::Config { .. }));
    assert_mentions(&refused, &["number of ranks", "at least 1", "found 0"]);
}

#[test]
fn a_panic_ends_the_other_ranks_in_any_state() {
    // Before, between and during the others' collectives.
    for (turns, pause) in [(0, 0), (0, 50), (3, 0), (3, 50)] {
        for world in [2, 4] {
            let end = run(world, LONG_DEADLINE, move |comm| {
                for _ in 0..turns {
                    sum(comm, 1)?;
                }
                if comm.rank() == 1 {
                    std::thread::sleep(Duration::from_millis(pause));
                    panic!("no more coffee");
                }
                sum(comm, 1).map(drop)
            });
            let (peer, cause) = match end.shared(&[1]) {
                Error::PeerFailed { peer, cause } => (peer, cause),
                other => panic!("{other}"),
            };
            assert_eq!(peer, 1);
            assert!(cause.contains("no more coffee"), "{cause}");
            let message = "no more coffee".to_string();
            let rank = 1;
            assert_eq!(end.world, Err(Error::Panicked { rank, message }));
        }
    }
}

#[test]
fn an_error_of_the_program_ends_the_other_ranks() {
    let end = run(3, LONG_DEADLINE, |comm| {
        sum(comm, 1)?;
        if comm.rank() == 2 {
            return Err(Error::user("no more disk"));
        }
        sum(comm, 1).map(drop)
    });
    assert_eq!(end.world, Err(Error::user("rank 2: no more disk")));
    let cause = "no more disk".to_string();
    assert_eq!(end.shared(&[2]), Error::PeerFailed { peer: 2, cause });
}

#[test]
fn a_rank_that_returns_early_is_named() {
    for world in [2, 3] {
        let end = run(world, LONG_DEADLINE, |comm| {
            sum(comm, 1)?;
            if comm.rank() == 1 {
                return Ok(());
            }
            comm.barrier(&"epoch 7".into())
        });
        assert_eq!(end.ranks[1], None);
        let error = end.shared(&[1]);
        assert!(matches!(error, Error::PeerLeft { peer: 1, .. }), "{error}");
        assert_mentions(&error, &["rank 1 has returned", "barrier", "epoch 7"]);
        assert_eq!(end.world, Err(error));
    }
}

/// A collective, and the call of the rank that differs.
type Deviation = fn(&Communicator, bool) -> Result<()>;

/// Differing programs, with the message's words for the majority and for the rank that differs.
const DEVIATIONS: [(&str, &str, &str, Deviation); 9] = [
    (
        "op",
        "barrier of x #1",
        "broadcast from rank 0 of x #1, step 0 (2 f32)",
        |comm, odd| {
            if odd {
                comm.broadcast(&"x".into(), 0, SpanMut::of(&mut [0.0f32; 2]))
            } else {
                comm.barrier(&"x".into())
            }
        },
    ),
    ("order", "of x #1", "of y #1", |comm, odd| {
        let units = if odd { ["y", "x"] } else { ["x", "y"] };
        units.iter().try_for_each(|unit| {
            comm.all_reduce(&(*unit).into(), Reduce::Sum, SpanMut::of(&mut [1u8]))
        })
    }),
    ("length", "(3 i64)", "(4 i64)", |comm, odd| {
        let mut buffer = [1i64; 4];
        let len = if odd { 4 } else { 3 };
        comm.all_reduce(&"x".into(), Reduce::Sum, SpanMut::of(&mut buffer[..len]))
    }),
    ("length of a gather", "(2 u8)", "(0 u8)", |comm, odd| {
        let len = if odd { 0 } else { 2 };
        let (send, mut recv) = (vec![1u8; len], vec![0u8; len * comm.size()]);
        comm.all_gather(&"x".into(), Span::of(&send), SpanMut::of(&mut recv))
    }),
    ("dtype", "(2 f32)", "(2 i32)", |comm, odd| {
        if odd {
            comm.broadcast(&"x".into(), 0, SpanMut::of(&mut [0i32; 2]))
        } else {
            comm.broadcast(&"x".into(), 0, SpanMut::of(&mut [0.0f32; 2]))
        }
    }),
    (
        "reduction",
        "all_reduce(Mean)",
        "all_reduce(Max)",
        |comm, odd| {
            let op = if odd { Reduce::Max } else { Reduce::Mean };
            comm.all_reduce(&"x".into(), op, SpanMut::of(&mut [1.0f64]))
        },
    ),
    ("root", "from rank 0", "from rank 1", |comm, odd| {
        comm.broadcast(&"x".into(), odd.into(), SpanMut::of(&mut [1u32]))
    }),
    ("unit", "of encoder", "of decoder", |comm, odd| {
        comm.barrier(&if odd { "decoder" } else { "encoder" }.into())
    }),
    ("detail", "[w, b]", "[w]", |comm, odd| {
        let label = Label::new("x");
        comm.barrier(&label.with_detail(if odd { "w" } else { "w, b" }))
    }),
];

#[test]
fn a_rank_with_a_different_call_is_named_on_all() {
    for (what, ours, theirs, deviate) in DEVIATIONS {
        // Of two ranks the second counts as the one that differs; of three, the one that is alone.
        for (world, odd) in [(2, 1), (3, 0), (3, 1), (3, 2)] {
            let end = run(world, LONG_DEADLINE, move |comm| {
                sum(comm, 1)?;
                deviate(comm, comm.rank() == odd)?;
                unreachable!("ranks of a different {what} went on")
            });
            let error = end.shared(&[]);
            let Error::Mismatch {
                rank,
                peer,
                ours: majority,
                theirs: minority,
                ..
            } = &error
            else {
                panic!("{what}: {error}");
            };
            assert_eq!((*rank, *peer), (usize::from(odd == 0), odd), "{what}");
            assert!(majority.contains(ours), "{what}: {majority}");
            assert!(minority.contains(theirs), "{what}: {minority}");
            assert_mentions(&error, &["same collectives in the same order"]);
            assert_eq!(end.world, Err(error));
        }
    }
}

#[test]
fn a_collective_on_one_rank_only_ends_at_the_deadline() {
    let (begun, given_up) = (Instant::now(), Barrier::new(4));
    let end = run(4, SHORT_DEADLINE, move |comm| {
        sum(comm, 1)?;
        let alone = (comm.rank() == 2).then(|| comm.barrier(&"rank 2 alone".into()));
        given_up.wait();
        // The others call later, and get the same error.
        alone.unwrap_or_else(|| sum(comm, 1).map(drop))
    });
    assert!(begun.elapsed() >= SHORT_DEADLINE);
    let error = end.shared(&[]);
    let Error::Timeout {
        rank: 2,
        waited: SHORT_DEADLINE,
        missing,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(*missing, [0, 1, 3]);
    let words = ["rank 2 alone", "call it on every rank", "[0, 1, 3]", "2.5s"];
    assert_mentions(&error, &words);
    assert_eq!(end.world, Err(error));
}

#[test]
fn a_late_rank_within_the_deadline_is_waited_for() {
    let end = run(3, Duration::from_secs(15), |comm| {
        std::thread::sleep(Duration::from_millis(300) * comm.rank() as u32);
        assert_eq!(sum(comm, 1)?, 3);
        Ok(())
    });
    assert_eq!(end.world, Ok(()));
}

#[test]
fn after_an_error_every_collective_fails_with_that_error() {
    let given_up = Barrier::new(3);
    let end = run(3, SHORT_DEADLINE, move |comm| {
        let group = comm.split(comm.rank() / 2, 0)?;
        let alone = (comm.rank() == 0).then(|| comm.barrier(&"alone".into()));
        given_up.wait();
        let first = alone.unwrap_or_else(|| comm.barrier(&"late".into()));
        let error = first.unwrap_err();
        let mut buffer = [1.0f32; 3];
        let mut quickest = Duration::MAX;
        for _ in 0..100 {
            let begun = Instant::now();
            let again = [
                comm.barrier(&"more".into()),
                comm.all_reduce(&"more".into(), Reduce::Sum, SpanMut::of(&mut buffer)),
                comm.all_gather(
                    &"more".into(),
                    Span::of(&[1.0f32]),
                    SpanMut::of(&mut buffer),
                ),
                comm.broadcast(&"more".into(), 0, SpanMut::of(&mut buffer)),
                comm.split(0, 0).map(drop),
            ];
            for result in again {
                assert_eq!(result, Err(error.clone()));
            }
            // Groups of one rank do not communicate.
            if group.size() > 1 {
                assert_eq!(group.barrier(&"more".into()), Err(error.clone()));
            }
            quickest = quickest.min(begun.elapsed());
        }
        // A call that waits does so every time, if only for one poll; a busy machine delays only some.
        let most = Duration::from_millis(10);
        assert!(quickest < most, "some of these wait: {quickest:?}");
        Err(error)
    });
    assert!(matches!(end.shared(&[]), Error::Timeout { rank: 0, .. }));
}

#[test]
fn a_failure_inside_one_group_reaches_ranks_that_wait_in_another() {
    // Rank 3 fails towards rank 2; ranks 0 and 1 wait in a group that neither belongs to, and
    // rank 4 waits for the whole world.
    let ways: [fn(&Communicator) -> Result<()>; 3] = [
        |_| panic!("no more coffee"),
        |_| Err(Error::user("no more coffee")),
        |group| {
            group.abort(Error::user("no more coffee"));
            group.barrier(&"end".into())
        },
    ];
    for way in ways {
        let end = run(5, LONG_DEADLINE, move |comm| {
            let rank = comm.rank();
            let pair = comm.split(rank / 2, 0)?;
            match rank {
                0 => pair.barrier(&"in vain".into()),
                1 => {
                    // Its partner waits in the pair, it waits in the world.
                    comm.barrier(&"in vain".into())
                }
                2 => sum(&pair, 1).map(drop),
                3 => {
                    std::thread::sleep(Duration::from_millis(50));
                    way(&pair)
                }
                _ => comm.barrier(&"in vain".into()),
            }
        });
        assert_mentions(&end.shared(&[3]), &["no more coffee"]);
        assert_mentions(&end.world.unwrap_err(), &["no more coffee"]);
    }
}

#[test]
fn a_mismatch_inside_a_group_names_ranks_of_the_world() {
    let end = run(5, LONG_DEADLINE, |comm| {
        let group = comm.split(comm.rank() % 2, 0)?;
        let mut buffer = vec![1u8; if comm.rank() == 4 { 2 } else { 1 }];
        group.all_reduce(&"x".into(), Reduce::Sum, SpanMut::of(&mut buffer))?;
        comm.barrier(&"end".into())
    });
    let error = end.shared(&[]);
    let of_world = matches!(
        error,
        Error::Mismatch {
            rank: 0,
            peer: 4,
            ..
        }
    );
    assert!(of_world, "{error}");
}

#[test]
fn the_launcher_returns_the_first_error() {
    // Rank 0 makes a panic of the others' failure; it is not the one to look at.
    let end = run(3, LONG_DEADLINE, |comm| {
        sum(comm, 1)?;
        match comm.rank() {
            0 => sum(comm, 1)
                .map(drop)
                .map_err(|e| panic!("rank 0 gave up: {e}")),
            1 => sum(comm, 1)
                .map(drop)
                .map_err(|e| Error::user(format!("hm: {e}"))),
            _ => Err(Error::user("the cause")),
        }
    });
    assert_eq!(end.world, Err(Error::user("rank 2: the cause")));
    // The same where no single rank is at fault.
    let end = run(2, LONG_DEADLINE, |comm| {
        let label = if comm.rank() == 0 { "x" } else { "y" };
        comm.barrier(&label.into())
            .map_err(|e| panic!("gave up: {e}"))
    });
    assert!(matches!(end.world, Err(Error::Mismatch { .. })), "{end:?}");
}

#[test]
fn a_rank_may_handle_the_failure_of_a_collective() {
    let given_up = Barrier::new(2);
    // No rank can miss this deadline.
    let end = run(2, Duration::from_millis(300), move |comm| {
        let alone = (comm.rank() == 0).then(|| comm.barrier(&"alone".into()));
        given_up.wait();
        let handled = matches!(alone, None | Some(Err(Error::Timeout { .. })));
        assert!(handled, "{alone:?}");
        Ok(())
    });
    assert_eq!(end.world, Ok(()));
}

#[test]
fn a_queue_keeps_its_order_and_survives_a_panic() {
    within(LIMIT, || {
        let queue = Queue::new(5).unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let next = |expected: usize| {
            let done = done.clone();
            queue.submit(move || {
                std::thread::sleep(Duration::from_millis(5));
                assert_eq!(done.fetch_add(1, Ordering::SeqCst), expected);
                Ok(expected)
            })
        };
        let (first, second) = (next(0), next(1));
        let failed = queue.submit(|| Err::<(), _>(Error::user("no more disk")));
        let panicked = queue.submit(|| -> Result<()> { panic!("no more coffee") });
        // Its ticket is dropped without a wait, and it runs nevertheless.
        drop(next(2));
        let last = next(3);
        assert_eq!(last.wait(), Ok(3));
        let message = "no more coffee".to_string();
        assert_eq!(panicked.wait(), Err(Error::Panicked { rank: 5, message }));
        assert_eq!(failed.wait(), Err(Error::user("no more disk")));
        assert_eq!((first.wait(), second.wait()), (Ok(0), Ok(1)));
        drop(next(4));
        drop(queue);
        assert_eq!(
            done.load(Ordering::SeqCst),
            5,
            "a dropped queue finishes first"
        );
    });
}
