//! Errors of other crates and of the program, as errors of this library.

use crate::error::Error;
use std::error::Error as StdError;
use std::panic::Location;

/// An error of files or sockets that `?` carries out of a rank, with the place in the source where it did.
///
/// ```
/// use burn_dist::launch::Threads;
///
/// let found = Threads::new(2).run(|_| Ok(std::fs::read_to_string("no/such/file")?));
/// let found = found.unwrap_err().to_string();
/// assert!(found.contains("No such file") && found.contains(".rs:"), "{found}");
/// ```
impl From<std::io::Error> for Error {
    #[track_caller]
    fn from(error: std::io::Error) -> Self {
        located(&error, Location::caller())
    }
}

/// Any other error that `?` carries out of a rank, with its causes and the place in the source where it did.
///
/// One that comes from another rank's failure stays what it is.
impl From<Box<dyn StdError + Send + Sync>> for Error {
    #[track_caller]
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        from_box(error, Some(Location::caller()))
    }
}

/// The error of a program that has a type of its own for them.
pub(crate) fn from_box(
    error: Box<dyn StdError + Send + Sync>,
    place: Option<&Location<'_>>,
) -> Error {
    let mut next: Option<&(dyn StdError + 'static)> = Some(&*error);
    let mut is_own = true;
    while let Some(cause) = next {
        match cause.downcast_ref::<Error>() {
            Some(cause) if is_own || cause.is_of_a_peer() => return cause.clone(),
            _ => {}
        }
        (next, is_own) = (cause.source(), false);
    }
    match place {
        Some(place) => located(&*error, place),
        None => Error::user(with_causes(&*error)),
    }
}

fn located(error: &dyn StdError, place: &Location<'_>) -> Error {
    Error::user(format!("{} (at {place})", with_causes(error)))
}

/// The message, and those of its causes that it does not hold itself.
fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_own_error_keeps_its_causes_and_a_peers_failure_its_kind() {
        #[derive(Debug, thiserror::Error)]
        #[error("training")]
        struct Training(#[source] Error);
        let boxed = |error| from_box(Box::new(Training(error)), None);
        assert_eq!(
            boxed(Error::user("no more disk")),
            Error::user("training: no more disk")
        );
        let lost = Error::peer_failed(3, &Error::user("gone"));
        assert_eq!(boxed(lost.clone()), lost);
        assert_eq!(from_box(Box::new(lost.clone()), None), lost);
        let text = Error::from(std::io::Error::other("torn")).to_string();
        assert!(
            text.starts_with("torn (at ") && text.contains("error.rs:"),
            "{text}"
        );
    }
}
