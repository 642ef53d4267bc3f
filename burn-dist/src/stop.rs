//! The order to end: what a scheduler means by SIGTERM, a person by Ctrl-C, and a terminal that is closed
//! by SIGHUP.
//!
//! A training loop that asks [`World::should_stop`](crate::World::should_stop) finishes its step,
//! saves, and returns. One that never asks would ignore the signal, so until the first
//! question a signal does what it always does: it ends the process.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether this process was told to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    asked: Arc<AtomicBool>,
    /// Whether a signal ends the process at once.
    deadly: Arc<AtomicBool>,
}

/// The process's handlers, which stay once they are set.
static SIGNALS: Mutex<Option<Stop>> = Mutex::new(None);

impl Stop {
    /// Nobody will ask.
    pub(crate) fn never() -> Self {
        Self {
            asked: Arc::default(),
            deadly: Arc::default(),
        }
    }

    /// Set by SIGTERM, SIGINT and SIGHUP, but for those that this process is made to ignore; a second SIGINT ends the process, for those in a hurry.
    ///
    /// # Errors
    /// [`Error::Config`] if the system refuses the handlers.
    pub(crate) fn on_signals() -> Result<Self> {
        let mut signals = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = &*signals {
            return Ok(stop.clone());
        }
        let stop = Self {
            asked: Arc::default(),
            deadly: Arc::new(AtomicBool::new(true)),
        };
        let refused = |e| Error::config("signals", "to handle SIGTERM, SIGINT and SIGHUP", e);
        let heard = heard();
        for signal in heard.iter().copied() {
            // In this order: handlers run as they were set.
            flag::register_conditional_default(signal, stop.deadly.clone()).map_err(refused)?;
            flag::register(signal, stop.asked.clone()).map_err(refused)?;
        }
        if heard.contains(&SIGINT) {
            flag::register(SIGINT, stop.deadly.clone()).map_err(refused)?;
        }
        *signals = Some(stop.clone());
        Ok(stop)
    }

    /// Nobody will ask any more: from now on a signal ends the process again.
    pub(crate) fn disarm(&self) {
        self.deadly.store(true, Ordering::Relaxed);
    }

    /// Whether this process was told to end; from the first question on, telling does not kill.
    pub(crate) fn is_asked(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if !asked {
            self.deadly.store(false, Ordering::Relaxed);
        }
        asked
    }
}

/// The signals that ask to stop, without those that whoever started this process has it ignore:
/// `nohup` does so with SIGHUP, and a shell with SIGINT for what runs in its background.
pub(crate) fn heard() -> Vec<i32> {
    let ignored = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| ignored(&status))
        .unwrap_or(0);
    let heard = |signal: &i32| *signal == SIGTERM || ignored >> (signal - 1) & 1 == 0;
    [SIGTERM, SIGINT, SIGHUP]
        .into_iter()
        .filter(heard)
        .collect()
}

/// One bit for each ignored signal, from the lowest.
fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        let status =
            "Name:\tsh\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\nSigCgt:\t0\n";
        assert_eq!(ignored(status), Some(0x1003));
        assert_eq!(ignored("Name:\tsh\n"), None);
    }
}
