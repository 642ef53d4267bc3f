//! The decisions at rank 0, case by case. The way to a rank is its number.

use super::*;
use crate::rendezvous::message::PROTOCOL;

pub(super) const WORLD: usize = 3;
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

pub(super) fn hello(rank: usize, purpose: Purpose) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: "1".into(),
        purpose,
        rank,
        world: WORLD,
        attempt: 1,
        host: "here".into(),
        pid: 7,
    }
}

pub(super) fn new() -> State<usize> {
    State::new(WORLD, 1, "first:29500".into())
}

fn joined() -> State<usize> {
    let mut state = new();
    for rank in 0..WORLD {
        assert_eq!(
            state.join(&hello(rank, Purpose::Watch), rank),
            Admission::Joined
        );
    }
    state
}

/// Why a caller is refused.
struct Refusal {
    problem: String,
    again: bool,
    notice: Option<Notice<usize>>,
}

fn refused(state: &mut State<usize>, hello: &Hello) -> Refusal {
    match state.join(hello, 100) {
        Admission::Refused {
            problem,
            again,
            notice,
        } => Refusal {
            problem,
            again,
            notice,
        },
        Admission::Joined => unreachable!("{hello:?} has joined"),
    }
}

fn lost(notice: Option<Notice<usize>>) -> (usize, String, Vec<usize>) {
    match notice {
        Some(Notice {
            to,
            message: Message::Fault(Error::PeerLost { peer, why, .. }),
        }) => (peer, why, to),
        other => unreachable!("{other:?} says nothing of a lost rank"),
    }
}

#[test]
fn callers_of_another_world_break_this_one_and_those_of_another_attempt_do_not() {
    for (change, words) in [
        (
            Hello {
                world: 4,
                ..hello(1, Purpose::Watch)
            },
            "a world of 4, rank 0 for 3",
        ),
        (hello(3, Purpose::Watch), "no such rank"),
    ] {
        let mut state = new();
        assert_eq!(state.join(&hello(0, Purpose::Watch), 0), Admission::Joined);
        let refusal = refused(&mut state, &change);
        assert!(refusal.problem.contains(words) && !refusal.again);
        assert_eq!(refusal.notice.map(|notice| notice.to), Some(vec![0]));
        assert!(matches!(state.fault(), Some(Error::Join { .. })));
    }
    let mut state = joined();
    let early = Hello {
        attempt: 0,
        ..hello(1, Purpose::Watch)
    };
    let refusal = refused(&mut state, &early);
    assert!(refusal.problem.contains("attempt 0") && !refusal.again);
    assert!(refusal.notice.is_none() && state.fault().is_none());
    // One of the next attempt: this one is over.
    let late = Hello {
        attempt: 2,
        ..hello(1, Purpose::Store)
    };
    let refusal = refused(&mut state, &late);
    assert!(refusal.problem.contains("has not restarted yet") && refusal.again);
    let (peer, why, to) = lost(refusal.notice);
    assert_eq!((peer, to), (1, vec![0, 1, 2]));
    assert!(why.contains("started it again (process 7 on here, last seen in joining)"));
}

#[test]
fn a_rank_taken_twice_breaks_a_world_that_is_not_complete() {
    let mut state = new();
    assert_eq!(state.join(&hello(1, Purpose::Watch), 1), Admission::Joined);
    let refusal = refused(&mut state, &hello(1, Purpose::Watch));
    let words = "rank 1: process 7 on here, and process 7 on here";
    assert!(refusal.problem.ends_with(words), "{}", refusal.problem);
    assert!(refusal.notice.is_some());
    let mut state = joined();
    assert_eq!(refused(&mut state, &hello(1, Purpose::Watch)).notice, None);
    assert!(state.fault().is_none());
    // The connection to the store is a rank's second one.
    assert_eq!(state.join(&hello(1, Purpose::Store), 1), Admission::Joined);
    let _ = state.hear(1, Message::Bye, Instant::now());
    let _ = state.disconnected(2);
    for rank in [1, 2] {
        let refusal = refused(&mut state, &hello(rank, Purpose::Watch));
        assert!(refusal.problem.contains("a process that has ended"));
    }
}

#[test]
fn a_suspected_rank_has_time_to_end_by_itself() {
    let now = Instant::now();
    let suspect = |peer| Message::Suspect {
        peer,
        why: "no bytes".into(),
    };
    let mut state = joined();
    let due = now + BLAME_WAIT;
    assert_eq!(state.hear(0, suspect(2), now), Effect::JudgeAt(due));
    assert_eq!(state.judge(due - Duration::from_millis(1)), None);
    let (peer, why, to) = lost(state.judge(due));
    assert_eq!((peer, to), (2, vec![0, 1, 2]));
    assert!(why.starts_with("no bytes (process 7"), "{why}");
    assert_eq!(state.judge(due), None);

    let mut state = joined();
    assert_eq!(state.hear(0, suspect(2), now), Effect::JudgeAt(due));
    let (peer, why, _) = lost(state.disconnected(2));
    assert!(peer == 2 && why.contains("closed the connection"), "{why}");
    assert_eq!(state.judge(due), None);
    // One that has said goodbye is blamed, if another still needed it; no rank beyond the world is.
    let mut state = joined();
    let _ = state.hear(2, Message::Bye, now);
    let _ = state.hear(0, suspect(2), now);
    assert_eq!(state.hear(0, suspect(WORLD), now), Effect::Nothing);
    assert_eq!(
        lost(state.judge(due)),
        (2, "no bytes".into(), vec![0, 1, 2])
    );
}

#[test]
fn a_lost_rank_is_told_of_with_what_it_did_last() {
    let mut state = joined();
    let _ = state.hear(1, Message::Beat("sum #17\n".into()), Instant::now());
    let why = lost(state.silent(1, HEARTBEAT)).1;
    let expected = "no sign of life for 10s (process 7 on here, last seen in sum #17\\n)";
    assert_eq!(why, expected);
}

#[test]
fn values_are_kept_and_a_number_is_no_word() {
    let (mut state, now) = (joined(), Instant::now());
    let wait = Request::Wait {
        key: "k".into(),
        millis: 100,
    };
    let Reply::Later(pending) = state.ask(0, wait, now) else {
        unreachable!("answered at once")
    };
    assert_eq!(state.answer(&pending, now), None);
    let late = now + Duration::from_millis(100);
    assert_eq!(state.answer(&pending, late), Some(Answer::Value(None)));
    let add = |by| Request::Add {
        key: "k".into(),
        by,
    };
    assert_eq!(state.ask(1, add(2), now), Reply::Now(Answer::Number(2)));
    assert_eq!(state.ask(2, add(-5), now), Reply::Now(Answer::Number(-3)));
    let value = Answer::Value(Some("-3".into()));
    assert_eq!(state.answer(&pending, now), Some(value));
    let set = Request::Set {
        key: "k".into(),
        value: "word".into(),
    };
    assert_eq!(state.ask(1, set, now), Reply::Now(Answer::Done));
    let refused = state.ask(2, add(1), now);
    assert!(
        matches!(refused, Reply::Now(Answer::Refused(_))),
        "{refused:?}"
    );
}
