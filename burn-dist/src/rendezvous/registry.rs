//! What all connections of the server share: the state of the world behind a lock, and who is
//! connected.

use super::message::{Answer, Hello, Message, Request};
use super::secret::Secret;
use super::state::{Admission, Notice, Reply, State};
use super::stream::Outbox;
use super::untrusted::TurnedAway;
use crate::error::Error;
use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often threads of the server look whether it closes.
pub(super) const CLOSE_POLL_EVERY: Duration = Duration::from_millis(50);
/// How long a server that closes waits for the connections that still send something.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Connections that have not proven the secret yet and may be open at once, beyond two per rank. The
/// oldest makes room for the next, as ranks prove it at once.
const MAX_UNPROVEN: usize = 64;
/// What warnings about callers begin with.
const LOG_NAME: &str = "rendezvous";

/// The shared part of a server.
#[derive(Debug)]
pub(super) struct Registry {
    world: usize,
    pub(super) secret: Secret,
    pub(super) heartbeat: Duration,
    turned_away: TurnedAway,
    state: Mutex<State<Outbox>>,
    /// The state has changed, or the server closes.
    changed: Condvar,
    closing: AtomicBool,
    connections: AtomicUsize,
    /// Connections that have not proven the secret yet, the oldest first.
    unproven: Mutex<VecDeque<Arc<TcpStream>>>,
}

impl Registry {
    /// The registry of a server that listens at `address`.
    pub(super) fn new(
        world: usize,
        attempt: usize,
        address: String,
        secret: Secret,
        heartbeat: Duration,
    ) -> Self {
        Self {
            world,
            secret,
            heartbeat,
            turned_away: TurnedAway::default(),
            state: Mutex::new(State::new(world, attempt, address)),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            unproven: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<Outbox>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the threads that wait for a change.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut State<Outbox>) -> R) -> R {
        let result = change(&mut self.state());
        self.changed.notify_all();
        result
    }

    /// Sends a notice, outside of the lock.
    pub(super) fn send(&self, notice: Option<Notice<Outbox>>) {
        let Some(Notice { to, message }) = notice else {
            return;
        };
        if let Message::Fault(error) = &message {
            log::debug!("the world is broken: {error}");
        }
        for outbox in to {
            // A rank that cannot be reached is noticed by its own connection.
            let _ = outbox.send(&message);
        }
    }

    /// Takes in a caller that has proven the secret; else why not, and whether it may succeed later.
    pub(super) fn join(&self, hello: &Hello, outbox: &Outbox) -> Result<(), (String, bool)> {
        match self.update(|state| state.join(hello, outbox.clone())) {
            Admission::Joined => Ok(()),
            Admission::Refused {
                problem,
                again,
                notice,
            } => {
                self.send(notice);
                Err((problem, again))
            }
        }
    }

    /// What broke the world.
    pub(super) fn fault(&self) -> Option<Error> {
        self.state().fault().cloned()
    }

    /// Waits until that time for a fault, and blames the suspected rank if there is none by then.
    pub(super) fn judge_at(&self, due: Instant) {
        self.wait(due, |state, _| state.fault().map(|_| ()));
        let notice = self.update(|state| state.judge(due));
        self.send(notice);
    }

    /// The answer to a rank's request, as soon as there is one.
    pub(super) fn answer(&self, rank: usize, request: Request) -> Answer {
        let reads = matches!(request, Request::Get { .. } | Request::Wait { .. });
        let ask = |state: &mut State<Outbox>| state.ask(rank, request, Instant::now());
        let reply = if reads {
            ask(&mut self.state())
        } else {
            self.update(ask)
        };
        let pending = match reply {
            Reply::Now(answer) => return answer,
            Reply::Later(pending) => pending,
        };
        let answer = self.wait(pending.until, |state, now| state.answer(&pending, now));
        // There is one by that time at the latest.
        answer.unwrap_or(Answer::Value(None))
    }

    /// Waits until `ready` gives something, but no longer than `until`. When the server closes, that
    /// time has come.
    fn wait<R>(
        &self,
        until: Instant,
        ready: impl Fn(&State<Outbox>, Instant) -> Option<R>,
    ) -> Option<R> {
        let mut state = self.state();
        loop {
            let now = if self.is_closing() {
                until
            } else {
                Instant::now()
            };
            if let Some(result) = ready(&state, now) {
                return Some(result);
            }
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return None;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Has all threads of the server end.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.update(|_| ());
    }

    /// Waits for connections that still send something, once no more are accepted.
    pub(super) fn finish(&self) {
        let until = Instant::now() + CLOSE_WAIT;
        while self.connections.load(Ordering::Acquire) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.turned_away.close(LOG_NAME);
    }

    /// Counts a new connection; `false` if there are too many.
    pub(super) fn open(&self, socket: &Arc<TcpStream>) -> bool {
        let most = 4 * self.world + 2 * MAX_UNPROVEN;
        if self.connections.fetch_add(1, Ordering::Relaxed) >= most {
            // Those that were closed to make room have not ended yet, or ranks open more than they
            // need.
            self.ended();
            return false;
        }
        let mut unproven = self.unproven();
        unproven.push_back(socket.clone());
        if unproven.len() > 2 * self.world + MAX_UNPROVEN
            && let Some(oldest) = unproven.pop_front()
        {
            // It may be closed already.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        true
    }

    /// A connection has ended.
    pub(super) fn ended(&self) {
        self.connections.fetch_sub(1, Ordering::Release);
    }

    /// Notes that a caller has proven the secret, or has ended; `false` if it had to make room before.
    pub(super) fn has_proven(&self, socket: &Arc<TcpStream>) -> bool {
        let mut unproven = self.unproven();
        let at = unproven.iter().position(|s| Arc::ptr_eq(s, socket));
        at.and_then(|at| unproven.remove(at)).is_some()
    }

    fn unproven(&self) -> MutexGuard<'_, VecDeque<Arc<TcpStream>>> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Warns of a caller that was turned away.
    pub(super) fn warn(&self, why: impl FnOnce() -> String) {
        self.turned_away.warn(LOG_NAME, why);
    }
}
