//! How long what is lost may take to come back, as `--rejoin` takes it.

use crate::error::{Error, Result};
use crate::launch::variable::{Environment, YEAR};
use std::time::Duration;

/// Long enough for a host that boots a container again; a run of one host waits only where a rank hangs.
const DEFAULT: Duration = Duration::from_secs(60);

/// Reads a number of seconds.
#[cfg(feature = "cli")]
pub(super) fn seconds(text: &str) -> Result<Duration> {
    let seconds = text.trim().parse::<f64>().ok();
    let accepted = seconds.filter(|s| (0.01..=YEAR.as_secs_f64()).contains(s));
    let exact = accepted.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let found: String = text.chars().take(60).collect();
    let expected = "a number of seconds, at least 0.01";
    exact.ok_or_else(|| Error::config("rejoin", expected, format!("{found:?}")))
}

/// The time of a world whose size may change.
pub(super) fn rejoin(flag: Option<Duration>, env: Environment<'_>) -> Result<Duration> {
    let given = match (flag, env.variable("BURN_DIST_REJOIN")) {
        (Some(time), _) => Some(time),
        (None, variable) => variable.map(|v| v.seconds()).transpose()?,
    };
    match given {
        Some(Duration::ZERO) => Err(Error::config("--rejoin", "more than 0 seconds", 0)),
        given => Ok(given.unwrap_or(DEFAULT).min(YEAR)),
    }
}
