//! A collective that the GPU has been told of and may not have done yet.
//!
//! Its buffers stay here until the GPU is through with them, whatever the caller drops, and here
//! is decided whether it still may take its time.

use super::gpu::Event;
use super::group::Group;
use crate::comm::{Await, Call, DeviceBuffer};
use crate::error::Result;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the host stays awake for a collective that should be short.
const AWAKE: Duration = Duration::from_micros(50);
/// How often it looks after that.
const GLANCE: Duration = Duration::from_micros(30);

/// A collective under way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Before the group, whose context it needs to go.
    done: Event,
    call: Call,
    since: Instant,
    buffers: Mutex<Vec<DeviceBuffer>>,
    group: Arc<Group>,
}

impl Flight {
    /// What ends at `done`, and until then needs `buffers`.
    pub(super) fn new(
        group: &Arc<Group>,
        call: &Call,
        buffers: Vec<DeviceBuffer>,
        done: Event,
    ) -> Self {
        Self {
            done,
            call: call.clone(),
            since: Instant::now(),
            buffers: Mutex::new(buffers),
            group: group.clone(),
        }
    }

    /// Whether this belongs to `group`.
    pub(super) fn is_of(&self, group: &Group) -> bool {
        std::ptr::eq(&raw const *self.group, group)
    }

    /// Lets the buffers go if the GPU is through with them, well or not, and says whether it is.
    pub(super) fn has_landed(&self) -> bool {
        // A context that has failed runs nothing any more.
        let past = self.done.is_past().unwrap_or(true);
        if past {
            let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
            let gone = std::mem::take(&mut *buffers);
            drop(buffers);
            // Whoever frees memory may do more than that; no lock is held meanwhile.
            drop(gone);
        }
        past
    }

    /// How it ended, if it has; a flight that cannot end any more fails, and its group with it.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        let past = self.done.is_past();
        // Asked in this order: an aborted collective comes to its end too, but only after the fault
        // was noted.
        if let Some(fault) = self.group.fault() {
            return Some(Err(fault));
        }
        match past {
            Ok(true) => Some(Ok(())),
            Ok(false) => {
                let error = self.group.trouble(&self.call, self.since)?;
                Some(Err(self.group.fail(error)))
            }
            Err(problem) => {
                let error = self.group.failed(&self.call, &problem);
                Some(Err(self.group.fail(error)))
            }
        }
    }

    /// Waits for the end.
    pub(super) fn land(&self) -> Result<()> {
        while self.since.elapsed() < AWAKE && !self.done.is_past().unwrap_or(true) {
            std::thread::yield_now();
        }
        loop {
            match self.outcome() {
                Some(outcome) => return outcome,
                None => std::thread::sleep(GLANCE),
            }
        }
    }
}

impl Await for Flight {
    fn wait(&self) -> Result<()> {
        if let Some(outcome) = self.outcome() {
            return outcome;
        }
        self.done.before_later_work().map_err(|problem| {
            let error = self.group.failed(&self.call, &problem);
            self.group.fail(error)
        })
    }
}
