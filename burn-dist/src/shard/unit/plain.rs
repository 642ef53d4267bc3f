//! A closure of a unit on a plain copy of its module.

use crate::unwind::try_quietly;
use std::cell::Cell;
use std::panic::resume_unwind;

thread_local!(static RUNNING: Cell<bool> = const { Cell::new(false) });

/// How a run ended.
pub(super) enum PlainRun<T> {
    Returned(T),
    /// It came to another sharded model, of which there is no plain copy.
    OtherModel,
    Panicked,
}

/// Unwinds from a closure that reads a sharded model.
struct OtherModel;

/// Runs `f`, which has a plain module; a panic is not printed.
pub(super) fn run<T>(f: impl FnOnce() -> T) -> PlainRun<T> {
    RUNNING.set(true);
    let ran = try_quietly(f);
    RUNNING.set(false);
    match ran {
        Ok(value) => PlainRun::Returned(value),
        Err(payload) if payload.is::<OtherModel>() => PlainRun::OtherModel,
        Err(_) => PlainRun::Panicked,
    }
}

/// Whether a closure runs on a plain module in this thread.
pub(super) fn is_running() -> bool {
    RUNNING.get()
}

/// Leaves the run that is going on in this thread, if one is: what is about to be read is sharded.
pub(super) fn leave() {
    if RUNNING.get() {
        resume_unwind(Box::new(OtherModel));
    }
}
