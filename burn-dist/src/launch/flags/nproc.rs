//! What `--nproc-per-node` accepts.

use super::nnodes::bounds;
use crate::error::{Error, Result};
use crate::launch::variable::MOST_RANKS;
use std::fmt::{self, Display};
use std::str::FromStr;

/// What `--nproc-per-node` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NProc {
    /// So many, at least 1.
    Count(usize),
    /// So many as can be started, within these.
    Range {
        /// With fewer ranks the host takes no part.
        least: usize,
        /// So many are started first.
        most: usize,
    },
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
        match (text, bounds(text)) {
            ("auto", _) => Ok(Self::Auto),
            ("gpu", _) => Ok(Self::Gpu),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some((least, most))) if least == most => Ok(Self::Count(most)),
            (_, Some((least, most))) => Ok(Self::Range { least, most }),
            _ => {
                let expected = format!(
                    "a number from 1 to {MOST_RANKS}, MIN:MAX of two such, auto, gpu or cpu"
                );
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
            Self::Range { least, most } => write!(f, "{least}:{most}"),
            Self::Auto => f.write_str("auto"),
            Self::Gpu => f.write_str("gpu"),
            Self::Cpu => f.write_str("cpu"),
        }
    }
}
