//! A collective that is submitted to the GPU and may not be done yet.
//!
//! It keeps the buffers until the GPU has run the collective, whatever the caller drops, and decides when
//! to give up waiting.

use super::errors::Problem;
use super::gpu::GpuEvent;
use crate::comm::{Await, Call, DeviceBuffer};
use crate::error::{Error, Result};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the host spins for a collective that may be short.
const SPIN_FOR: Duration = Duration::from_micros(50);
/// How often the host queries the event after that.
const EVENT_POLL_EVERY: Duration = Duration::from_micros(30);

/// The group whose collective was submitted.
pub(super) trait Owner: Debug + Send + Sync {
    /// Why the group is broken, if it is.
    fn fault(&self) -> Option<Error>;

    /// The error of a collective that was submitted at `since`, if it must be given up.
    fn wait_error(&self, call: &Call, since: Instant) -> Option<Error>;

    /// The error of all ranks when NCCL or the GPU fails in `call` on this one.
    fn failure(&self, call: &Call, problem: &Problem) -> Error;

    /// Breaks the group with `error` unless it is broken already; returns the first error.
    fn fail(&self, error: Error) -> Error;
}

/// A collective that is submitted to the GPU.
#[derive(Debug)]
pub(super) struct Submitted {
    /// Declared before `owner`, because destroying it needs the owner's context.
    done: GpuEvent,
    call: Call,
    since: Instant,
    buffers: Mutex<Vec<DeviceBuffer>>,
    owner: Arc<dyn Owner>,
}

impl Submitted {
    /// The collective that ends at `done` and needs `buffers` until then.
    pub(super) fn new(
        owner: Arc<dyn Owner>,
        call: &Call,
        buffers: Vec<DeviceBuffer>,
        done: GpuEvent,
    ) -> Self {
        Self {
            done,
            call: call.clone(),
            since: Instant::now(),
            buffers: Mutex::new(buffers),
            owner,
        }
    }

    /// Whether this is a collective of `owner`.
    pub(super) fn is_of(&self, owner: *const dyn Owner) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.owner), owner)
    }

    /// Releases the buffers if the GPU has run the collective or has failed; returns whether it has.
    pub(super) fn release_buffers(&self) -> bool {
        // A context that has failed runs no more work.
        let passed = self.done.has_passed().unwrap_or(true);
        if passed {
            let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
            let released = std::mem::take(&mut *buffers);
            drop(buffers);
            // The owners' destructors may run any code, so they run without the lock.
            drop(released);
        }
        passed
    }

    /// The result, if there is one; a collective that must be given up fails, and its group with it.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        let passed = self.done.has_passed();
        // In this order: an aborted collective ends too, but only after its fault was recorded.
        if let Some(fault) = self.owner.fault() {
            return Some(Err(fault));
        }
        match passed {
            Ok(true) => Some(Ok(())),
            Ok(false) => {
                let error = self.owner.wait_error(&self.call, self.since)?;
                Some(Err(self.owner.fail(error)))
            }
            Err(problem) => {
                let error = self.owner.failure(&self.call, &problem);
                Some(Err(self.owner.fail(error)))
            }
        }
    }

    /// Waits on the host for the result.
    pub(super) fn wait_on_host(&self) -> Result<()> {
        while self.since.elapsed() < SPIN_FOR && !self.done.has_passed().unwrap_or(true) {
            std::thread::yield_now();
        }
        loop {
            match self.outcome() {
                Some(outcome) => return outcome,
                None => std::thread::sleep(EVENT_POLL_EVERY),
            }
        }
    }
}

impl Await for Submitted {
    fn wait(&self) -> Result<()> {
        if let Some(outcome) = self.outcome() {
            return outcome;
        }
        self.done.order_later_work().map_err(|problem| {
            let error = self.owner.failure(&self.call, &problem);
            self.owner.fail(error)
        })
    }
}
