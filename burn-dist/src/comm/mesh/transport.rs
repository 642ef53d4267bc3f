//! What carries the bytes between processes.

use crate::error::Error;
use std::fmt::{self, Display};
use std::str::FromStr;

/// What carries the bytes between processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Shared memory between processes of one host, TCP between hosts.
    #[default]
    Auto,
    /// TCP, also on one host.
    Tcp,
    /// Shared memory; an error between hosts.
    Shm,
    /// Shared memory, through rings alone: no process reads another one's memory.
    Ring,
}

impl FromStr for Transport {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            "tcp" => Ok(Self::Tcp),
            "shm" => Ok(Self::Shm),
            "ring" => Ok(Self::Ring),
            other => {
                let found: String = other.chars().take(60).collect();
                let expected = "auto, tcp, shm or ring";
                Err(Error::config("transport", expected, format!("{found:?}")))
            }
        }
    }
}

impl Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tcp => "tcp",
            Self::Shm => "shm",
            Self::Ring => "ring",
        })
    }
}
