//! How many ranks a host gets.

use super::hardware::Hardware;
use super::{Flags, named};
use crate::error::{Error, Result};
use crate::launch::variable::{Environment, MOST_RANKS};
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

/// The number of ranks to start on this host.
pub(super) fn ranks(
    flags: &Flags,
    env: Environment<'_>,
    hardware: impl FnOnce(Environment<'_>) -> Hardware,
) -> Result<usize> {
    let variable = env.variable("PET_NPROC_PER_NODE");
    let (name, nproc) = match (flags.nproc_per_node, variable) {
        (Some(nproc), _) => ("--nproc-per-node", nproc),
        (None, Some(variable)) => {
            let nproc = variable
                .value
                .parse()
                .map_err(|e| named(e, variable.name))?;
            (variable.name, nproc)
        }
        (None, None) => return Ok(1),
    };
    let here = || hardware(env);
    match nproc {
        NProc::Count(count) if (1..=MOST_RANKS).contains(&count) => Ok(count),
        NProc::Count(count) => {
            let expected = format!("a number from 1 to {MOST_RANKS}, auto, gpu or cpu");
            Err(Error::config(name, expected, count))
        }
        NProc::Cpu => Ok(here().cores),
        NProc::Auto => {
            let here = here();
            Ok(if here.gpus > 0 { here.gpus } else { here.cores })
        }
        NProc::Gpu => match here().gpus {
            0 => Err(Error::config(
                format!("{name}=gpu"),
                "a GPU that this process may use (or auto, cpu, or a number)",
                "no /dev/nvidia0, or CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES hide it",
            )),
            gpus => Ok(gpus),
        },
    }
}
