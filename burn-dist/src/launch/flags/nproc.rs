//! What `--nproc-per-node` accepts.

use crate::error::{Error, Result};
use crate::launch::variable::MOST_RANKS;
use std::fmt::{self, Display};
use std::str::FromStr;

/// What `--nproc-per-node` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NProc {
    /// So many, at least 1.
    Count(usize),
    /// One per GPU, or per core of a host without GPUs.
    Auto,
    /// One per GPU.
    Gpu,
    /// One per core.
    Cpu,
}

impl FromStr for NProc {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            ("gpu", _) => Ok(Self::Gpu),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Ok(count)) if (1..=MOST_RANKS).contains(&count) => Ok(Self::Count(count)),
            _ => {
                let expected = format!("a number from 1 to {MOST_RANKS}, auto, gpu or cpu");
                let found: String = text.chars().take(60).collect();
                Err(Error::config(
                    "nproc-per-node",
                    expected,
                    format!("{found:?}"),
                ))
            }
        }
    }
}

impl Display for NProc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Auto => f.write_str("auto"),
            Self::Gpu => f.write_str("gpu"),
            Self::Cpu => f.write_str("cpu"),
        }
    }
}
