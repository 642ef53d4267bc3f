//! How a failed collective leaves a tensor operation.
//!
//! Burn's tensor operations cannot return a `Result`. A failure inside one therefore unwinds with
//! an [`Error`] as its payload, past the panic hook (nothing is printed), to the nearest place
//! that can return it: [`World::run`](crate::World::run), a backward pass, or the launcher.

use crate::error::{Error, Result};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

/// Leaves the current tensor operation with `error`.
pub(crate) fn raise(error: Error) -> ! {
    resume_unwind(Box::new(error))
}

/// Returns the value, or leaves the current tensor operation with the error.
pub(crate) fn or_raise<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| raise(error))
}

/// Runs `f` and turns a raised [`Error`] back into an `Err`; any other panic goes on unwinding.
pub(crate) fn catch_raised<T>(f: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| match payload.downcast::<Error>() {
        Ok(error) => *error,
        Err(payload) => resume_unwind(payload),
    })
}

/// Runs `f` and turns a raised [`Error`] and also any panic into an `Err` of `rank`.
pub(crate) fn catch_all<T>(rank: usize, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| Err(from_payload(rank, payload)))
}

/// Runs `f` and returns what it panicked with, if it did, without printing it.
///
/// For what is tried out, where a panic is an answer. Panics of other threads are printed as always.
pub(crate) fn try_quietly<T>(f: impl FnOnce() -> T) -> std::thread::Result<T> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(before);
    result
}

/// Goes on with a panic, a hint behind its message. What was raised on purpose stays as it is.
pub(crate) fn resume_with_hint(payload: Panic, hint: impl FnOnce() -> Option<String>) -> ! {
    let told = message(&*payload).filter(|message| !message.contains(HINT));
    match told.and_then(|message| Some(format!("{message} ({HINT}{})", hint()?))) {
        Some(message) => resume_unwind(Box::new(message)),
        None => resume_unwind(payload),
    }
}

/// What a panic carries.
type Panic = Box<dyn Any + Send>;

/// Before a hint, so that a panic gets one hint only.
const HINT: &str = "hint: ";

/// The text of a panic.
fn message(payload: &(dyn Any + Send)) -> Option<String> {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
}

fn from_payload(rank: usize, payload: Box<dyn Any + Send>) -> Error {
    match payload.downcast::<Error>() {
        Ok(error) => *error,
        Err(payload) => {
            let message = message(&*payload);
            let message = message.unwrap_or_else(|| "a panic without a message".into());
            let message = explained(message);
            Error::Panicked { rank, message }
        }
    }
}

/// A panic of Burn's that comes from sharding, with what Burn cannot know.
fn explained(message: String) -> String {
    let loading = ["Failed to load record", "Failed to load module from file"];
    if loading.iter().any(|start| message.starts_with(start)) {
        format!(
            "{message}; a sharded model stores shards, which a record of whole parameters does not \
             fit: load it into the model before Strategy::shard, use Strategy::shard_from, or \
             world.load for what world.save has written"
        )
    } else {
        message
    }
}
