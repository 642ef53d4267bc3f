//! The state of a world at rank 0, and every decision on it: who may join, which rank is lost, which
//! failure was the first, and what the store answers.
//!
//! There are no sockets, threads or clocks here. The server passes in what has arrived and the time,
//! and sends what comes back. `T` is the way to one rank: an outbox in the server, a number in tests.

use super::message::{Answer, Hello, Message, Purpose, Request};
use super::untrusted::{line, shortened, word};
use crate::error::Error;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How long a rank that another one suspects may take to end by itself, before it is blamed for what
/// the other has seen: its own connection tells more.
pub(super) const BLAME_WAIT: Duration = Duration::from_millis(500);

/// The world as rank 0 sees it.
#[derive(Debug)]
pub(super) struct State<T> {
    attempt: usize,
    /// Where rank 0 listens, for messages.
    address: String,
    ranks: Vec<RankState<T>>,
    values: HashMap<String, String>,
    barriers: HashMap<String, Barrier>,
    /// The ways to ranks that have said goodbye and wait for the others.
    leaving: Vec<T>,
    suspicions: Vec<Suspicion>,
    fault: Option<Error>,
}

/// What is known of one rank.
#[derive(Debug, Clone, Default)]
enum RankState<T> {
    /// It has not joined yet.
    #[default]
    Awaited,
    /// It has joined, from this process, and was last seen doing this.
    Joined {
        process: String,
        doing: String,
        way: T,
    },
    /// It has said goodbye.
    Left,
    /// Its connection ended without a goodbye.
    Gone,
}

/// The ranks that have come to a barrier.
#[derive(Debug, Default)]
struct Barrier {
    /// How often all ranks have come.
    round: u64,
    /// Who has come in this round.
    here: BTreeSet<usize>,
}

/// A rank's report that its connection to a peer broke.
#[derive(Debug)]
struct Suspicion {
    peer: usize,
    why: String,
    /// When the peer is blamed.
    due: Instant,
}

/// A message, and the ranks to send it to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notice<T> {
    pub(super) to: Vec<T>,
    pub(super) message: Message,
}

/// Whether a caller has joined.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Admission<T> {
    Joined,
    Refused {
        problem: String,
        /// Whether it may succeed later.
        again: bool,
        /// What the ranks that are here must be told because of it.
        notice: Option<Notice<T>>,
    },
}

/// What follows from a rank's message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect<T> {
    Nothing,
    /// Send this.
    Tell(Notice<T>),
    /// Call [`State::judge`] at this time.
    JudgeAt(Instant),
}

/// What a request gets.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    Now(Answer),
    /// Ask [`State::answer`] after each change, and at the latest at its time.
    Later(Pending),
}

/// A request that waits for other ranks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    /// When it is answered at the latest.
    pub(super) until: Instant,
    on: WaitsOn,
}

#[derive(Debug, Clone, PartialEq)]
enum WaitsOn {
    Value { key: String },
    Barrier { name: String, round: u64 },
}

impl<T: Clone> State<T> {
    /// A world that nobody has joined yet.
    pub(super) fn new(world: usize, attempt: usize, address: String) -> Self {
        Self {
            attempt,
            address,
            ranks: vec![RankState::Awaited; world],
            values: HashMap::new(),
            barriers: HashMap::new(),
            leaving: Vec::new(),
            suspicions: Vec::new(),
            fault: None,
        }
    }

    /// What broke the world: the first failure.
    pub(super) fn fault(&self) -> Option<&Error> {
        self.fault.as_ref()
    }

    /// Takes in a caller that has proven that it knows the secret.
    pub(super) fn join(&mut self, hello: &Hello, way: T) -> Admission<T> {
        if let Err((problem, again)) = self.admit(hello) {
            let notice = if again {
                // It knows the secret, so the attempt that this server is for is over.
                self.lost(hello.rank, "its launcher has started it again")
            } else if hello.attempt == self.attempt {
                // No other process will come for this rank.
                self.fail(self.join_error(hello.rank, &problem))
            } else {
                None
            };
            return Admission::Refused {
                problem,
                again,
                notice,
            };
        }
        match hello.purpose {
            Purpose::Watch => self.add_rank(hello, way),
            Purpose::Store => Admission::Joined,
        }
    }

    /// Whether a caller belongs to this world; else why not, and whether it may succeed later.
    fn admit(&self, hello: &Hello) -> Result<(), (String, bool)> {
        let world = self.ranks.len();
        if hello.world != world {
            let problem = format!(
                "it was started for a world of {}, rank 0 for {world}",
                hello.world
            );
            return Err((problem, false));
        }
        if hello.rank >= world {
            let problem = format!("a world of {world} has no such rank");
            return Err((problem, false));
        }
        match hello.attempt.cmp(&self.attempt) {
            Ordering::Less => {
                let (theirs, ours) = (hello.attempt, self.attempt);
                let problem =
                    format!("it belongs to attempt {theirs}, rank 0 is in attempt {ours}");
                Err((problem, false))
            }
            // This server is about to be replaced.
            Ordering::Greater => Err(("rank 0 has not restarted yet".into(), true)),
            Ordering::Equal => Ok(()),
        }
    }

    fn join_error(&self, rank: usize, problem: &str) -> Error {
        Error::Join {
            rank,
            address: self.address.clone(),
            problem: problem.into(),
            remedy: "give every process the same world size and a rank of its own".into(),
        }
    }

    /// Notes that a rank has joined, unless another process has this rank.
    fn add_rank(&mut self, hello: &Hello, way: T) -> Admission<T> {
        let rank = hello.rank;
        let process = format!("process {} on {}", hello.pid, word(&hello.host));
        let is_awaited = |state: &RankState<T>| matches!(state, RankState::Awaited);
        let complete = !self.ranks.iter().any(is_awaited);
        let first = match &mut self.ranks[rank] {
            state @ RankState::Awaited => {
                let doing = "joining".to_owned();
                *state = RankState::Joined {
                    process,
                    doing,
                    way,
                };
                return Admission::Joined;
            }
            RankState::Joined { process, .. } => process.clone(),
            RankState::Left | RankState::Gone => "a process that has ended".into(),
        };
        let problem =
            format!("two processes say that they are rank {rank}: {first}, and {process}");
        let notice = if complete {
            None
        } else {
            // The second one was meant to be another rank, which will never come.
            self.fail(self.join_error(rank, &problem))
        };
        Admission::Refused {
            problem,
            again: false,
            notice,
        }
    }

    /// Acts on what a rank that has joined says on its watch connection.
    pub(super) fn hear(&mut self, rank: usize, message: Message, now: Instant) -> Effect<T> {
        let notice = match message {
            Message::Beat(said) => {
                if let RankState::Joined { doing, .. } = &mut self.ranks[rank] {
                    *doing = line(&said);
                }
                None
            }
            Message::Fault(error) => self.fail(shortened(&error)),
            Message::Suspect { peer, why } if peer < self.ranks.len() => {
                let (why, due) = (line(&why), now + BLAME_WAIT);
                self.suspicions.push(Suspicion { peer, why, due });
                return Effect::JudgeAt(due);
            }
            Message::Bye => self.leave(rank),
            _ => None,
        };
        notice.map_or(Effect::Nothing, Effect::Tell)
    }

    /// Blames a rank for a suspicion that is due, if nothing else has broken the world meanwhile.
    pub(super) fn judge(&mut self, now: Instant) -> Option<Notice<T>> {
        let first = self.suspicions.iter().position(|s| s.due <= now)?;
        let Suspicion { peer, why, .. } = self.suspicions.remove(first);
        // Also if it has said goodbye: another rank still needed it.
        self.lost(peer, &why)
    }

    /// A rank has said goodbye; when all have, they are told so.
    fn leave(&mut self, rank: usize) -> Option<Notice<T>> {
        let old = std::mem::replace(&mut self.ranks[rank], RankState::Left);
        if let RankState::Joined { way, .. } = old {
            self.leaving.push(way);
        }
        let have_all_left = self.ranks.iter().all(|s| matches!(s, RankState::Left));
        have_all_left.then(|| Notice {
            to: std::mem::take(&mut self.leaving),
            message: Message::AllDone,
        })
    }

    /// A rank has given no sign of life for so long.
    pub(super) fn silent(&mut self, rank: usize, heartbeat: Duration) -> Option<Notice<T>> {
        self.lost_unless_left(rank, &format!("no sign of life for {heartbeat:?}"))
    }

    /// A rank's watch connection has ended.
    pub(super) fn disconnected(&mut self, rank: usize) -> Option<Notice<T>> {
        let notice = self.lost_unless_left(rank, "its process closed the connection");
        if !matches!(self.ranks[rank], RankState::Left) {
            self.ranks[rank] = RankState::Gone;
        }
        notice
    }

    fn lost_unless_left(&mut self, rank: usize, why: &str) -> Option<Notice<T>> {
        if matches!(self.ranks[rank], RankState::Left) {
            return None;
        }
        self.lost(rank, why)
    }

    /// Breaks the world because of a rank.
    fn lost(&mut self, rank: usize, why: &str) -> Option<Notice<T>> {
        let why = match &self.ranks[rank] {
            RankState::Joined { process, doing, .. } if doing.is_empty() => {
                format!("{why} ({process})")
            }
            RankState::Joined { process, doing, .. } => {
                format!("{why} ({process}, last seen in {doing})")
            }
            _ => why.into(),
        };
        self.fail(Error::PeerLost {
            peer: rank,
            why,
            waiting: String::new(),
        })
    }

    /// Notes why the world is broken, unless it is already; every rank that is here is to be told.
    fn fail(&mut self, error: Error) -> Option<Notice<T>> {
        if self.fault.is_some() {
            return None;
        }
        self.fault = Some(error.clone());
        let joined = self.ranks.iter().filter_map(|state| match state {
            RankState::Joined { way, .. } => Some(way),
            _ => None,
        });
        Some(Notice {
            to: joined.chain(&self.leaving).cloned().collect(),
            message: Message::Fault(error),
        })
    }

    /// Acts on a rank's request to the store.
    pub(super) fn ask(&mut self, rank: usize, request: Request, now: Instant) -> Reply {
        let (millis, on) = match request {
            Request::Set { key, value } => {
                self.values.insert(key, value);
                return Reply::Now(Answer::Done);
            }
            Request::Get { key } => {
                return Reply::Now(Answer::Value(self.values.get(&key).cloned()));
            }
            Request::Add { key, by } => return Reply::Now(self.add(key, by)),
            Request::Wait { key, millis } => (millis, WaitsOn::Value { key }),
            Request::Barrier { name, millis } => {
                let round = self.enter(rank, &name);
                (millis, WaitsOn::Barrier { name, round })
            }
        };
        let until = now + Duration::from_millis(millis);
        Reply::Later(Pending { until, on })
    }

    fn add(&mut self, key: String, by: i64) -> Answer {
        let value = self.values.entry(key.clone()).or_insert_with(|| "0".into());
        let Ok(old) = value.parse::<i64>() else {
            let (key, value) = (line(&key), line(value));
            return Answer::Refused(format!("{key} holds {value:?}, which is no number"));
        };
        let new = old.wrapping_add(by);
        *value = new.to_string();
        Answer::Number(new)
    }

    /// A rank has come to a barrier; returns the round it waits for.
    fn enter(&mut self, rank: usize, name: &str) -> u64 {
        let Barrier { round, here } = self.barriers.entry(name.into()).or_default();
        let entered = *round;
        here.insert(rank);
        if here.len() == self.ranks.len() {
            here.clear();
            *round += 1;
        }
        entered
    }

    /// The answer to a request that waits, if there is one at this time.
    pub(super) fn answer(&self, pending: &Pending, now: Instant) -> Option<Answer> {
        let answer = match &pending.on {
            WaitsOn::Value { key } => {
                let value = self.values.get(key).cloned();
                value.map(|value| Answer::Value(Some(value)))
            }
            WaitsOn::Barrier { name, round } => {
                let barrier = self.barriers.get(name);
                let is_over = barrier.is_some_and(|b| b.round > *round);
                is_over.then_some(Answer::Done)
            }
        };
        let fault = || self.fault.clone().map(Answer::Fault);
        let expired = || (now >= pending.until).then(|| self.expired(pending));
        answer.or_else(fault).or_else(expired)
    }

    /// The answer to a request whose time is up.
    fn expired(&self, pending: &Pending) -> Answer {
        let WaitsOn::Barrier { name, .. } = &pending.on else {
            return Answer::Value(None);
        };
        let here = self.barriers.get(name).map(|b| &b.here);
        let is_missing = |rank: &usize| here.is_none_or(|here| !here.contains(rank));
        Answer::Missing((0..self.ranks.len()).filter(is_missing).collect())
    }
}

#[cfg(test)]
mod any_order;
#[cfg(test)]
mod tests;
