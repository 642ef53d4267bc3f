//! How a process ended, and how all ranks of a host did.

use super::signals;
use crate::launch::ErrorFile;
use std::fmt;
use std::time::Duration;

/// The end of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It left with this exit code.
    Exited(u8),
    /// This signal killed it.
    Killed(i32),
    /// Other code of this process has waited for it, so that its exit code is not known.
    Unknown,
}

/// How one rank ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) rank: usize,
    pub(super) pid: u32,
    pub(super) end: End,
    /// Whether the signal that killed it came from this launcher.
    pub(super) ours: bool,
    /// From its start to its end.
    pub(super) lived: Duration,
    /// Its error file.
    pub(super) error: Option<ErrorFile>,
}

/// How all ranks of this host ended.
#[derive(Debug)]
pub(super) struct Outcome {
    /// All ranks, in the order in which they ended.
    pub(super) ends: Vec<Ended>,
    /// The signal that asked the launcher to stop.
    pub(super) stop: Option<i32>,
}

impl End {
    pub(super) fn is_success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The exit code that a shell reports for it.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => u8::try_from(signal).map_or(255, |n| n.saturating_add(128)),
            Self::Unknown => 1,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(signal) => match signals::name(signal) {
                name if name.starts_with("SIG") => {
                    write!(f, "was killed by signal {signal} ({name})")
                }
                _ => write!(f, "was killed by signal {signal}"),
            },
            Self::Unknown => write!(f, "ended, and something else took its exit code"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_read_and_count_as_in_a_shell() {
        assert_eq!(End::Exited(7).to_string(), "exited with code 7");
        let killed = End::Killed(9);
        assert_eq!(killed.to_string(), "was killed by signal 9 (SIGKILL)");
        assert_eq!(End::Killed(40).to_string(), "was killed by signal 40");
        let ends = [End::Exited(0), End::Exited(7), killed, End::Killed(15)];
        assert_eq!(ends.map(End::code), [0, 7, 137, 143]);
        assert_eq!(ends.map(End::is_success), [true, false, false, false]);
    }
}
