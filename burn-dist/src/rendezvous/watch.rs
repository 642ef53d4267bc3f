//! A rank's watch connection: heartbeats both ways, and what rank 0 says has broken the world.

use super::message::Message;
use super::stream::{Inbox, Outbox, Silence};
use super::untrusted::shortened;
use crate::error::{Error, Result};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a rank that reports a failure waits for rank 0 to say which one was the first.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(3);

/// One rank's watch connection, and what broke the world; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    outbox: Outbox,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    rank: usize,
    /// Whether there is a fault, without the lock.
    broken: AtomicBool,
    closing: AtomicBool,
    status: Mutex<Status>,
    changed: Condvar,
    describe: Mutex<Describe>,
}

#[derive(Debug, Default)]
struct Status {
    fault: Option<Error>,
    all_done: bool,
}

type Words = Box<dyn Fn() -> String + Send>;

#[derive(Default)]
struct Describe(Option<Words>);

impl fmt::Debug for Describe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Describe")
    }
}

impl Watch {
    pub(super) fn start(
        rank: usize,
        heartbeat: Duration,
        inbox: Inbox,
        outbox: Outbox,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            rank,
            broken: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            status: Mutex::default(),
            changed: Condvar::new(),
            describe: Mutex::default(),
        });
        let (mine, sender) = (shared.clone(), outbox.clone());
        let thread = std::thread::Builder::new()
            .name(format!("rank {rank} watch"))
            .spawn(move || mine.watch(heartbeat, inbox, &sender))
            .map_err(|e| Error::config("watch", "a new thread", e))?;
        Ok(Self {
            shared,
            outbox,
            thread: Some(thread),
        })
    }

    pub(super) fn fault(&self) -> Option<Error> {
        if !self.shared.broken.load(Ordering::Relaxed) {
            return None;
        }
        self.shared.status().fault.clone()
    }

    pub(super) fn fault_within(&self, patience: Duration) -> Option<Error> {
        self.shared.until(patience, |status| status.fault.clone())
    }

    pub(super) fn abort(&self, error: Error) -> Error {
        if let Some(fault) = self.fault() {
            return fault;
        }
        let error = shortened(&error);
        // If rank 0 is gone, its end is the fault, or else this error.
        let _ = self.outbox.send(&Message::Fault(error.clone()));
        self.verdict(error)
    }

    pub(super) fn suspect(&self, peer: usize, why: String) -> Error {
        if let Some(fault) = self.fault() {
            return fault;
        }
        let _ = self.outbox.send(&Message::Suspect {
            peer,
            why: why.clone(),
        });
        let waiting = String::new();
        self.verdict(Error::PeerLost { peer, why, waiting })
    }

    /// What rank 0 says was the first failure; `otherwise` if it says nothing in time.
    fn verdict(&self, otherwise: Error) -> Error {
        self.shared
            .until(VERDICT_TIMEOUT, |status| status.fault.clone())
            .unwrap_or_else(|| self.shared.fail(otherwise))
    }

    pub(super) fn describe(&self, words: Words) {
        let mut describe = self
            .shared
            .describe
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        describe.0 = Some(words);
    }

    pub(super) fn leave(&self) -> Result<()> {
        let _ = self.outbox.send(&Message::Bye);
        let over = |status: &Status| match &status.fault {
            Some(fault) => Some(Err(fault.clone())),
            None => status.all_done.then_some(Ok(())),
        };
        loop {
            if let Some(result) = self.shared.until(Duration::from_secs(60), over) {
                return result;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.outbox.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the fault unless there is one already, and returns the one that counts.
    fn fail(&self, error: Error) -> Error {
        let fault = self.status().fault.get_or_insert(error).clone();
        self.broken.store(true, Ordering::Relaxed);
        self.changed.notify_all();
        fault
    }

    /// Waits until `ready` gives something, but no longer than `patience`.
    fn until<T>(&self, patience: Duration, ready: impl Fn(&Status) -> Option<T>) -> Option<T> {
        let until = Instant::now() + patience;
        let mut status = self.status();
        loop {
            if let Some(result) = ready(&status) {
                return Some(result);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let woken = self.changed.wait_timeout(status, left);
            status = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Exchanges heartbeats with rank 0 until the world ends.
    fn watch(&self, heartbeat: Duration, mut inbox: Inbox, outbox: &Outbox) {
        let beat_every = heartbeat / 4;
        let (mut silence, mut sent) = (Silence::default(), None::<Instant>);
        let lost = |why: String| {
            let waiting = String::new();
            self.fail(Error::PeerLost {
                peer: 0,
                why,
                waiting,
            })
        };
        while !self.closing.load(Ordering::Relaxed) {
            if sent.is_none_or(|at| at.elapsed() >= beat_every) {
                sent = Some(Instant::now());
                let did = {
                    let describe = self.describe.lock().unwrap_or_else(PoisonError::into_inner);
                    describe
                        .0
                        .as_ref()
                        .map_or_else(String::new, |words| words())
                };
                // If the connection has ended, the next read says so.
                let _ = outbox.send(&Message::Beat(did));
            }
            match silence.listen(&mut inbox, beat_every.min(Duration::from_millis(250))) {
                Ok(Some(Message::Fault(error))) => drop(self.fail(error)),
                Ok(Some(Message::AllDone)) => {
                    self.status().all_done = true;
                    self.changed.notify_all();
                    return;
                }
                Ok(_) => {}
                Err(_) if self.closing.load(Ordering::Relaxed) => return,
                Err(_) => return drop(lost("its process closed the connection".into())),
            }
            if silence.is_longer_than(heartbeat) {
                let fault = lost(format!(
                    "no sign of life for {heartbeat:?} at rank {}",
                    self.rank
                ));
                // If rank 0 was only stopped, it learns so that it was taken for lost.
                let _ = outbox.send(&Message::Fault(fault));
                return;
            }
        }
    }
}
