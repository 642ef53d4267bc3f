//! How ranks send bytes to each other.

use crate::error::Error;
use std::fmt::{self, Display};
use std::str::FromStr;

/// What `--transport` accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Transport {
    /// Shared memory within a host, TCP between hosts.
    #[default]
    Auto,
    /// TCP, also within a host.
    Tcp,
    /// Shared memory; an error on several hosts.
    Shm,
}

impl FromStr for Transport {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "tcp" => Ok(Self::Tcp),
            "shm" => Ok(Self::Shm),
            _ => {
                let found: String = text.chars().take(60).collect();
                Err(Error::config(
                    "transport",
                    "auto, tcp or shm",
                    format!("{found:?}"),
                ))
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
        })
    }
}
