//! How an error leaves Burn's loop, which returns no `Result`.
//!
//! It unwinds with an [`Error`] as its payload, as failures inside tensor operations do, past the panic hook
//! (nothing is printed), to the launcher, which returns it.

use burn_dist::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Leaves the training loop with `error`.
pub(crate) fn raise(error: Error) -> ! {
    resume_unwind(Box::new(error))
}

/// The value, or leaves the training loop with the error.
pub(crate) fn or_raise<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| raise(error))
}

/// Runs `f` and turns an error that it unwinds with back into an `Err`; other panics go on.
pub(crate) fn catch_raised<T>(f: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| match payload.downcast::<Error>() {
        Ok(error) => *error,
        Err(payload) => resume_unwind(payload),
    })
}

/// Runs `f`; if it fails or unwinds, `close` runs before the failure goes on.
///
/// `close` gets what both need: `f` borrows it.
pub(crate) fn closing<S, T>(
    mut state: S,
    f: impl FnOnce(&mut S) -> Result<T>,
    close: impl FnOnce(S),
) -> (S, T) {
    match catch_unwind(AssertUnwindSafe(|| f(&mut state))) {
        Ok(Ok(value)) => (state, value),
        Ok(Err(error)) => {
            close(state);
            raise(error)
        }
        Err(payload) => {
            close(state);
            resume_unwind(payload)
        }
    }
}
