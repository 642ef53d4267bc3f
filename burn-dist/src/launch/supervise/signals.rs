//! Signals to the launcher: that it is to stop, or that a child has ended.
//!
//! Signals become messages in a channel, which the readers of the children's output use too, so
//! that the launcher waits for everything in one place.

use crate::error::{Error, Result};
use crate::stop::heard;
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::{Handle, Signals};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What the launcher waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A child may have ended.
    Child,
    /// The launcher is asked to stop, by this signal.
    Stop(i32),
    /// One reader of a child's output has come to its end.
    Read,
    /// Ranks of another host may have failed.
    Others,
}

/// Receives signals for this process from its making to its end.
#[derive(Debug)]
pub(super) struct Watch {
    handle: Handle,
    sender: Sender<Event>,
    events: Receiver<Event>,
    default: Arc<AtomicBool>,
}

/// Whether signals have their default action again, as no [`Watch`] exists. signal-hook never removes its
/// handlers, so one that does the default action if this is set is added once.
static DEFAULT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

impl Watch {
    pub(super) fn start() -> Result<Self> {
        let refused = |e: std::io::Error| Error::config("signals", "to handle them", e);
        let stops = heard();
        let default = match DEFAULT.get() {
            Some(default) => default.clone(),
            None => {
                let default = Arc::new(AtomicBool::new(false));
                for &signal in &stops {
                    signal_hook::flag::register_conditional_default(signal, default.clone())
                        .map_err(refused)?;
                }
                DEFAULT.get_or_init(|| default).clone()
            }
        };
        let mut signals = Signals::new(stops.iter().chain([&SIGCHLD])).map_err(refused)?;
        let (sender, events) = channel();
        let (handle, send) = (signals.handle(), sender.clone());
        let watch = move || {
            for signal in signals.forever() {
                let event = match signal {
                    SIGCHLD => Event::Child,
                    signal => Event::Stop(signal),
                };
                if send.send(event).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(watch)
            .map_err(refused)?;
        default.store(false, Ordering::SeqCst);
        Ok(Self {
            handle,
            sender,
            events,
            default,
        })
    }

    /// For readers of output, to send that they are done.
    pub(super) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// The signal that asks to stop, if one has come that [`next`](Self::next) has not returned.
    pub(super) fn stop(&self) -> Option<i32> {
        self.events.try_iter().find_map(|event| match event {
            Event::Stop(signal) => Some(signal),
            Event::Child | Event::Read | Event::Others => None,
        })
    }

    /// The next event, if there is one within `wait`.
    pub(super) fn next(&self, wait: Duration) -> Option<Event> {
        match self.events.recv_timeout(wait) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            // Cannot be, since this holds a sender; do not spin if it is.
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait);
                None
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.close();
        self.default.store(true, Ordering::SeqCst);
    }
}

/// The name of a signal, or its number.
pub(super) fn name(signal: i32) -> String {
    let name = signal_hook::low_level::signal_name(signal);
    name.map_or_else(|| format!("signal {signal}"), str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(
            (name(9), name(250)),
            ("SIGKILL".into(), "signal 250".into())
        );
    }
}
