//! How many ranks a host gets.

use super::arguments::Flags;
use super::hardware::Hardware;
use super::nproc::NProc;
use crate::error::{Error, Result};
use crate::launch::variable::{Environment, MOST_RANKS};

/// The number of ranks to start on this host.
pub(super) fn local_world_size(
    flags: &Flags,
    env: Environment<'_>,
    hardware: impl FnOnce(Environment<'_>) -> Hardware,
) -> Result<usize> {
    let variable = env.variable("PET_NPROC_PER_NODE");
    let (name, nproc) = match (flags.nproc_per_node, variable) {
        (Some(nproc), _) => ("--nproc-per-node", nproc),
        (None, Some(variable)) => {
            let nproc = variable.value.parse().map_err(|e| variable.named(e))?;
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
