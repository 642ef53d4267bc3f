//! How many ranks a host gets.

use super::arguments::Flags;
use super::hardware::Hardware;
use super::nproc::NProc;
use crate::error::{Error, Result};
use crate::launch::variable::{Environment, MOST_RANKS};

/// The least and the largest number of ranks to start on this host.
pub(super) fn local_world_size(
    flags: &Flags,
    env: Environment<'_>,
    hardware: impl FnOnce(Environment<'_>) -> Hardware,
) -> Result<(usize, usize)> {
    let variable = env.variable("PET_NPROC_PER_NODE");
    let (name, nproc) = match (flags.nproc_per_node, variable) {
        (Some(nproc), _) => ("--nproc-per-node", nproc),
        (None, Some(variable)) => {
            let nproc = variable.value.parse().map_err(|e| variable.named(e))?;
            (variable.name, nproc)
        }
        (None, None) => return Ok((1, 1)),
    };
    let here = || hardware(env);
    let (least, most) = match nproc {
        NProc::Count(count) => (count, count),
        NProc::Range { least, most } => (least, most),
        other => {
            let count = of_hardware(name, other, here)?;
            (count, count)
        }
    };
    if least == 0 || least > most || most > MOST_RANKS {
        let expected =
            format!("a number from 1 to {MOST_RANKS}, MIN:MAX of two such, auto, gpu or cpu");
        return Err(Error::config(name, expected, nproc));
    }
    Ok((least, most))
}

/// As many ranks as this host has cores or GPUs.
fn of_hardware(name: &str, nproc: NProc, here: impl FnOnce() -> Hardware) -> Result<usize> {
    match nproc {
        NProc::Count(count) | NProc::Range { most: count, .. } => Ok(count),
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
