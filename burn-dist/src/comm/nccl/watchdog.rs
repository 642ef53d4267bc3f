//! The thread that watches collectives on which the host does not wait.
//!
//! A program whose GPU hangs in a collective blocks at its next read from the device, where this library is
//! not called. So each rank with such collectives has a thread that releases their buffers when they are
//! done, and makes those fail that have failed or take too long. It sleeps while there are none.

use super::submitted::{Owner, Submitted};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the thread checks: seldom enough to cost nothing, and often enough to release memory within
/// the time of one layer.
const WATCH_EVERY: Duration = Duration::from_micros(200);

/// One rank's collectives on which the host does not wait.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    pending: Mutex<Vec<Arc<Submitted>>>,
    changed: Condvar,
    runs: AtomicBool,
    closed: AtomicBool,
}

impl Watchdog {
    /// Watches `submitted`; `false` if the thread cannot be started.
    pub(super) fn add(self: &Arc<Self>, submitted: Arc<Submitted>) -> bool {
        self.lock().push(submitted);
        self.changed.notify_all();
        if self.runs.swap(true, Ordering::Relaxed) {
            return true;
        }
        let watchdog = self.clone();
        let thread = std::thread::Builder::new().name("nccl watchdog".into());
        let started = thread.spawn(move || watchdog.run()).is_ok();
        self.runs.store(started, Ordering::Relaxed);
        started
    }

    /// Releases the buffers of collectives that are done, and forgets these.
    pub(super) fn release_done(&self) {
        let watched = self.lock().clone();
        let done: Vec<_> = watched
            .into_iter()
            .filter(|f| f.release_buffers())
            .collect();
        self.lock()
            .retain(|f| !done.iter().any(|other| Arc::ptr_eq(f, other)));
    }

    /// The pending collectives of `owner`.
    pub(super) fn of(&self, owner: *const dyn Owner) -> Vec<Arc<Submitted>> {
        let pending = self.lock();
        pending.iter().filter(|f| f.is_of(owner)).cloned().collect()
    }

    /// Ends the thread once there are no pending collectives.
    pub(super) fn close(&self) {
        let _pending = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Submitted>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut pending = self.lock();
            while pending.is_empty() {
                if self.closed.load(Ordering::Relaxed) {
                    return;
                }
                let woken = self.changed.wait(pending);
                pending = woken.unwrap_or_else(PoisonError::into_inner);
            }
            let watched = pending.clone();
            drop(pending);
            // `outcome` makes a collective that must be given up fail, and its group with it.
            for submitted in &watched {
                let _ = submitted.outcome();
            }
            drop(watched);
            self.release_done();
            std::thread::sleep(WATCH_EVERY);
        }
    }
}
