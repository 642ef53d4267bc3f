//! What `srun` says.

use super::claim::{Claim, missing};
use super::launcher::Launcher;
use super::origin::Sourced;
use crate::error::{Error, Result};
use crate::launch::hostlist::{Hostlist, tasks_on};
use crate::launch::variable::Environment;

/// From here on, step numbers are names: of the batch script, of an interactive shell, and such.
const FIRST_RESERVED_STEP: u64 = 0xffff_fff0;

/// What a SLURM step says.
///
/// `SLURM_NTASKS` means nothing alone: a script of `sbatch` has it too, and runs once. The first
/// host and the port follow Lightning's rules, so that a mixed job meets in the same place.
pub(super) fn ranks(env: Environment<'_>) -> Result<Option<Claim>> {
    let (Some(rank), Some(step)) = (
        Sourced::number(env, &["SLURM_PROCID"])?,
        env.first_of(&["SLURM_STEP_ID", "SLURM_STEPID"]),
    ) else {
        return Ok(None);
    };
    let Ok(number) = step.value.parse::<u64>() else {
        return Err(step.wrong("a number"));
    };
    if number >= FIRST_RESERVED_STEP {
        return Ok(None);
    }
    let Some(size) = Sourced::number(env, &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"])? else {
        return Err(missing("SLURM_NTASKS", &rank));
    };
    if is_shell(env, size.value)? {
        return Ok(None);
    }
    let hosts = Sourced::number(env, &["SLURM_STEP_NUM_NODES", "SLURM_NNODES"])?;
    Ok(Some(Claim {
        one_per_host: hosts.is_some_and(|hosts| hosts.value == size.value),
        local_rank: Sourced::number(env, &["SLURM_LOCALID"])?,
        local_world_size: local_size(env)?,
        master_addr: first_host(env)?,
        master_port: Some(port(env)),
        ..Claim::new(Launcher::Slurm, rank, size)
    }))
}

/// Whether this runs in a shell that `srun` or `salloc` opened, whose variables are not its own.
fn is_shell(env: Environment<'_>, tasks: usize) -> Result<bool> {
    let name = env.variable("SLURM_JOB_NAME");
    let Some(name) = name.filter(|name| ["bash", "interactive"].contains(&name.value.as_str()))
    else {
        return Ok(false);
    };
    if tasks <= 1 || env.variable("SLURM_PTY_PORT").is_some() {
        return Ok(true);
    }
    // `srun` from within such a job keeps the name. To go on as a single process would train as
    // many models as there are tasks.
    Err(name.wrong(format!(
        "a name that is not a shell's for a step of {tasks} tasks (salloc --job-name=train, or \
         SLURM_JOB_NAME=train srun ...)"
    )))
}

fn local_size(env: Environment<'_>) -> Result<Option<Sourced<usize>>> {
    let tasks = env.first_of(&["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"]);
    let (Some(tasks), Some(host)) = (tasks, Sourced::number(env, &["SLURM_NODEID"])?) else {
        return Ok(None);
    };
    match tasks_on(host.value, &tasks.value) {
        Ok(size) => {
            let rule = format!("{tasks} at {}", host.origin);
            Ok(Some(Sourced::by_rule(size, rule)))
        }
        Err(problem) => {
            let expected = "tasks per host, such as 2(x3),1";
            Err(Error::config(tasks.to_string(), expected, problem))
        }
    }
}

fn first_host(env: Environment<'_>) -> Result<Option<Sourced<String>>> {
    let names = [
        "SLURM_STEP_NODELIST",
        "SLURM_JOB_NODELIST",
        "SLURM_NODELIST",
    ];
    let Some(list) = env.first_of(&names) else {
        return Ok(None);
    };
    match Hostlist::read(&list.value) {
        Ok(hosts) => {
            let rule = format!("first host of {list}");
            Ok(Some(Sourced::by_rule(hosts.first(), rule)))
        }
        Err(problem) => {
            let expected = "host names such as n[001-004,007],login1";
            Err(Error::config(list.to_string(), expected, problem))
        }
    }
}

fn port(env: Environment<'_>) -> Sourced<u16> {
    let job = env.first_of(&["SLURM_JOB_ID", "SLURM_JOBID"]);
    let number = job.and_then(|job| Some((job.value.parse::<u64>().ok()?, job)));
    match number {
        Some((number, job)) => {
            // At most 9999, so that it fits.
            let port = 15_000 + (number % 10_000) as u16;
            Sourced::by_rule(port, format!("15000 + last 4 digits of {job}"))
        }
        None => Sourced::by_rule(12_910, "no SLURM_JOB_ID"),
    }
}
