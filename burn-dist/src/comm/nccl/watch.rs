//! Looks after collectives that nobody on the host waits for.
//!
//! A program whose GPU is stuck in a collective stops at the next number it reads, and calls
//! nothing that could notice. So each GPU with such collectives has a thread that lets their buffers
//! go when they are done, and ends what has failed or takes too long. It sleeps while there are none.

use super::flight::Flight;
use super::group::Group;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the thread looks: so seldom that it costs nothing, and often enough that memory
/// comes back within one layer's time.
const GLANCE: Duration = Duration::from_micros(200);

/// One GPU's collectives under way.
#[derive(Debug, Default)]
pub(super) struct Watch {
    flights: Mutex<Vec<Arc<Flight>>>,
    changed: Condvar,
    runs: AtomicBool,
    closed: AtomicBool,
}

impl Watch {
    /// Looks after `flight` from here on; `false` if there is no thread that could.
    pub(super) fn add(self: &Arc<Self>, flight: Arc<Flight>) -> bool {
        self.lock().push(flight);
        self.changed.notify_all();
        if self.runs.swap(true, Ordering::Relaxed) {
            return true;
        }
        let watch = self.clone();
        let thread = std::thread::Builder::new().name("nccl watch".into());
        let started = thread.spawn(move || watch.run()).is_ok();
        self.runs.store(started, Ordering::Relaxed);
        started
    }

    /// Lets the buffers of what is done go.
    pub(super) fn sweep(&self) {
        let out = self.lock().clone();
        let landed: Vec<_> = out.into_iter().filter(|f| f.has_landed()).collect();
        self.lock()
            .retain(|f| !landed.iter().any(|gone| Arc::ptr_eq(f, gone)));
    }

    /// The collectives of `group` under way.
    pub(super) fn of(&self, group: &Group) -> Vec<Arc<Flight>> {
        let flights = self.lock();
        flights.iter().filter(|f| f.is_of(group)).cloned().collect()
    }

    /// Lets the thread end.
    pub(super) fn close(&self) {
        let _flights = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut flights = self.lock();
            while flights.is_empty() {
                if self.closed.load(Ordering::Relaxed) {
                    return;
                }
                let woken = self.changed.wait(flights);
                flights = woken.unwrap_or_else(PoisonError::into_inner);
            }
            let out = flights.clone();
            drop(flights);
            // Looking is enough: it makes what cannot end fail, and with it its group.
            for flight in &out {
                let _ = flight.outcome();
            }
            drop(out);
            self.sweep();
            std::thread::sleep(GLANCE);
        }
    }
}
