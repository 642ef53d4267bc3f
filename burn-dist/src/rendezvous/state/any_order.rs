//! The decisions at rank 0 for any order of events.

use super::tests::{HEARTBEAT, WORLD, hello, new};
use super::*;
use proptest::prelude::*;

fn failure(rank: usize) -> Error {
    Error::peer_failed(rank, &Error::user(format!("rank {rank} has no more disk")))
}

fn barrier(state: &mut State<usize>, rank: usize, now: Instant) -> Pending {
    let request = Request::Barrier {
        name: "b".into(),
        millis: 100,
    };
    match state.ask(rank, request, now) {
        Reply::Later(pending) => pending,
        Reply::Now(answer) => unreachable!("answered with {answer:?}"),
    }
}

/// Something that happens at rank 0.
#[derive(Debug, Clone, Copy)]
enum Event {
    Join(usize),
    Abort(usize),
    Silence(usize),
    Disconnect(usize),
    Suspect(usize, usize),
    Goodbye(usize),
    Barrier(usize),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let rank = || 0..WORLD;
    let event = prop_oneof![
        6 => rank().prop_map(Event::Join),
        1 => rank().prop_map(Event::Abort),
        1 => rank().prop_map(Event::Silence),
        1 => rank().prop_map(Event::Disconnect),
        1 => (rank(), rank()).prop_map(|(by, peer)| Event::Suspect(by, peer)),
        2 => rank().prop_map(Event::Goodbye),
        6 => rank().prop_map(Event::Barrier),
        3 => (0u64..400).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 0..60)
}

/// A world to which events happen, and what its ranks were told.
struct Simulation {
    state: State<usize>,
    now: Instant,
    /// Whether the rank's watch connection is open.
    open: [bool; WORLD],
    has_left: [bool; WORLD],
    told: [Vec<Message>; WORLD],
    /// The rank that was the first to fail, by a model of its own.
    first: Option<usize>,
    /// Suspicions that are not due yet.
    suspected: Vec<(Instant, usize)>,
    /// Requests that are not answered yet, each with how often all had come when it was made.
    waiting: Vec<(usize, Pending, usize)>,
    /// How often each rank has come to the barrier; repeats within a round count once.
    come: BTreeSet<usize>,
    rounds: usize,
}

impl Simulation {
    fn new() -> Self {
        Self {
            state: new(),
            now: Instant::now(),
            open: [false; WORLD],
            has_left: [false; WORLD],
            told: std::array::from_fn(|_| Vec::new()),
            first: None,
            suspected: Vec::new(),
            waiting: Vec::new(),
            come: BTreeSet::new(),
            rounds: 0,
        }
    }

    fn send(&mut self, notice: Option<Notice<usize>>) {
        let Some(Notice { to, message }) = notice else {
            return;
        };
        for rank in to {
            self.told[rank].push(message.clone());
        }
    }

    fn hear(&mut self, rank: usize, message: Message) {
        match self.state.hear(rank, message, self.now) {
            Effect::Nothing | Effect::JudgeAt(_) => {}
            Effect::Tell(notice) => self.send(Some(notice)),
        }
    }

    /// A rank that nobody has failed before is the first.
    fn fails(&mut self, rank: usize) {
        self.first.get_or_insert(rank);
    }

    /// Only what can happen to a rank in its state does.
    fn apply(&mut self, event: Event) {
        match event {
            Event::Join(rank) => {
                let complete = self.told.iter().all(|told| !told.is_empty());
                let is_new = self.told[rank].is_empty();
                match self.state.join(&hello(rank, Purpose::Watch), rank) {
                    Admission::Joined => {
                        assert!(is_new);
                        self.open[rank] = true;
                        self.told[rank].push(Message::Welcome);
                        let fault = self.state.fault().cloned();
                        self.told[rank].extend(fault.map(Message::Fault));
                    }
                    Admission::Refused { notice, .. } => {
                        assert!(!is_new);
                        if !complete {
                            self.fails(rank);
                        }
                        self.send(notice);
                    }
                }
            }
            Event::Abort(rank) if self.open[rank] => {
                self.fails(rank);
                self.hear(rank, Message::Fault(failure(rank)));
            }
            Event::Silence(rank) if self.open[rank] => {
                if !self.has_left[rank] {
                    self.fails(rank);
                }
                let notice = self.state.silent(rank, HEARTBEAT);
                self.send(notice);
            }
            Event::Disconnect(rank) if self.open[rank] => {
                if !self.has_left[rank] {
                    self.fails(rank);
                }
                let notice = self.state.disconnected(rank);
                self.send(notice);
                self.open[rank] = false;
            }
            Event::Suspect(by, peer) if self.open[by] => {
                self.suspected.push((self.now + BLAME_WAIT, peer));
                let why = "no bytes".into();
                self.hear(by, Message::Suspect { peer, why });
            }
            Event::Goodbye(rank) if self.open[rank] => {
                self.has_left[rank] = true;
                self.hear(rank, Message::Bye);
            }
            Event::Barrier(rank) => {
                let pending = barrier(&mut self.state, rank, self.now);
                self.waiting.push((rank, pending, self.rounds));
                self.come.insert(rank);
                if self.come.len() == WORLD {
                    self.come.clear();
                    self.rounds += 1;
                }
            }
            Event::Pass(millis) => {
                self.now += Duration::from_millis(millis);
                let now = self.now;
                let due = self.suspected.iter().find(|(due, _)| *due <= now);
                if let Some((_, peer)) = due.copied() {
                    self.fails(peer);
                }
                self.suspected.retain(|(due, _)| *due > now);
                let notice = self.state.judge(now);
                self.send(notice);
            }
            _ => {}
        }
    }

    /// Answers are given exactly when all have come, the world is broken, or the time is up.
    fn check_answers(&mut self) {
        let (state, now) = (&self.state, self.now);
        let (rounds, come) = (self.rounds, &self.come);
        self.waiting.retain(|(_, pending, round)| {
            let expected = if rounds > *round {
                Some(Answer::Done)
            } else if let Some(fault) = state.fault() {
                Some(Answer::Fault(fault.clone()))
            } else if now >= pending.until {
                let missing = (0..WORLD).filter(|rank| !come.contains(rank));
                Some(Answer::Missing(missing.collect()))
            } else {
                None
            };
            let answer = state.answer(pending, now);
            assert_eq!(answer, expected);
            answer.is_none()
        });
    }
}

fn faults(told: &[Message]) -> Vec<&Error> {
    let faults = told.iter().filter_map(|message| match message {
        Message::Fault(error) => Some(error),
        _ => None,
    });
    faults.collect()
}

/// The rank that an error names.
fn named(error: &Error) -> Option<usize> {
    match error {
        Error::PeerLost { peer, .. } | Error::PeerFailed { peer, .. } => Some(*peer),
        Error::Join { rank, .. } => Some(*rank),
        _ => None,
    }
}

proptest! {
    #[test]
    fn every_rank_is_told_the_first_failure_once(events in events()) {
        let mut world = Simulation::new();
        for event in events {
            let was_open = world.open;
            let before = world.state.fault().cloned();
            let all_done = world.has_left.iter().all(|left| *left);
            world.apply(event);
            world.check_answers();
            let fault = world.state.fault();
            prop_assert!(before.is_none() || fault == before.as_ref());
            prop_assert_eq!(fault.and_then(named), world.first);
            for (rank, told) in world.told.iter().enumerate() {
                let told = faults(told);
                prop_assert!(told.len() <= 1, "{told:?}");
                prop_assert!(told.iter().all(|error| Some(*error) == fault));
                // Nobody who waits for something is left without the reason.
                let waits = (was_open[rank] || world.open[rank]) && !all_done;
                let is_gone = before.is_some() && !was_open[rank] && !world.open[rank];
                if fault.is_some() && waits && !is_gone {
                    prop_assert_eq!(told.len(), 1, "rank {} after {:?}", rank, event);
                }
            }
        }
    }

    #[test]
    fn goodbyes_are_answered_once_when_all_have_come(events in events()) {
        let mut world = Simulation::new();
        for event in events {
            world.apply(event);
            let all_left = world.has_left.iter().all(|left| *left);
            for told in &world.told {
                let done = told.iter().filter(|m| **m == Message::AllDone).count();
                prop_assert_eq!(done, usize::from(all_left));
            }
        }
    }
}
