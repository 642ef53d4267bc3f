//! A rank's watch connection: signs of life both ways, and what the judge decides.

use super::message::Message;
use super::stream::{Inbox, Outbox, Silence};
use super::words::shortened;
use crate::error::{Error, Result};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a rank that reports a failure waits for the verdict of rank 0.
const VERDICT: Duration = Duration::from_secs(3);

/// One rank's view of whether its world is whole; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Seen>,
    outbox: Outbox,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Seen {
    rank: usize,
    /// Whether there is a fault: cheap to look at.
    broken: AtomicBool,
    closing: AtomicBool,
    news: Mutex<News>,
    changed: Condvar,
    describe: Mutex<Describe>,
}

#[derive(Debug, Default)]
struct News {
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
        let seen = Arc::new(Seen {
            rank,
            broken: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            news: Mutex::default(),
            changed: Condvar::new(),
            describe: Mutex::default(),
        });
        let (mine, sender) = (seen.clone(), outbox.clone());
        let thread = std::thread::Builder::new()
            .name(format!("rank {rank} watch"))
            .spawn(move || mine.watch(heartbeat, inbox, &sender))
            .map_err(|e| Error::config("watch", "a new thread", e))?;
        Ok(Self {
            seen,
            outbox,
            thread: Some(thread),
        })
    }

    pub(super) fn fault(&self) -> Option<Error> {
        if !self.seen.broken.load(Ordering::Relaxed) {
            return None;
        }
        self.seen.news().fault.clone()
    }

    pub(super) fn fault_within(&self, patience: Duration) -> Option<Error> {
        self.seen.until(patience, |news| news.fault.clone())
    }

    pub(super) fn abort(&self, error: Error) -> Error {
        if let Some(fault) = self.fault() {
            return fault;
        }
        let error = shortened(&error);
        // A rank 0 that is gone cannot judge; its end is then the verdict, or this error.
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

    /// What rank 0 decides; `otherwise` if it does not.
    fn verdict(&self, otherwise: Error) -> Error {
        self.seen
            .until(VERDICT, |news| news.fault.clone())
            .unwrap_or_else(|| self.seen.fail(otherwise))
    }

    pub(super) fn describe(&self, words: Words) {
        let mut describe = self
            .seen
            .describe
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        describe.0 = Some(words);
    }

    pub(super) fn leave(&self) -> Result<()> {
        let _ = self.outbox.send(&Message::Bye);
        let over = |news: &News| match &news.fault {
            Some(fault) => Some(Err(fault.clone())),
            None => news.all_done.then_some(Ok(())),
        };
        loop {
            if let Some(result) = self.seen.until(Duration::from_secs(60), over) {
                return result;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seen.closing.store(true, Ordering::Relaxed);
        self.outbox.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Seen {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the fault unless there is one already, and returns the one that counts.
    fn fail(&self, error: Error) -> Error {
        let fault = self.news().fault.get_or_insert(error).clone();
        self.broken.store(true, Ordering::Relaxed);
        self.changed.notify_all();
        fault
    }

    /// Waits for news, but no longer than `patience`.
    fn until<T>(&self, patience: Duration, ready: impl Fn(&News) -> Option<T>) -> Option<T> {
        let until = Instant::now() + patience;
        let mut news = self.news();
        loop {
            if let Some(result) = ready(&news) {
                return Some(result);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let woken = self.changed.wait_timeout(news, left);
            news = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Exchanges signs of life with rank 0 until the world ends.
    fn watch(&self, heartbeat: Duration, mut inbox: Inbox, outbox: &Outbox) {
        let pulse = heartbeat / 4;
        let (mut silence, mut spoke) = (Silence::default(), None::<Instant>);
        let lost = |why: String| {
            let waiting = String::new();
            self.fail(Error::PeerLost {
                peer: 0,
                why,
                waiting,
            })
        };
        while !self.closing.load(Ordering::Relaxed) {
            if spoke.is_none_or(|at| at.elapsed() >= pulse) {
                spoke = Some(Instant::now());
                let did = {
                    let describe = self.describe.lock().unwrap_or_else(PoisonError::into_inner);
                    describe
                        .0
                        .as_ref()
                        .map_or_else(String::new, |words| words())
                };
                // The end of the connection shows below.
                let _ = outbox.send(&Message::Beat(did));
            }
            match silence.listen(&mut inbox, pulse.min(Duration::from_millis(250))) {
                Ok(Some(Message::Fault(error))) => drop(self.fail(error)),
                Ok(Some(Message::AllDone)) => {
                    self.news().all_done = true;
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
                // Should rank 0 wake up, it learns that it is the one that was missed.
                let _ = outbox.send(&Message::Fault(fault));
                return;
            }
        }
    }
}
