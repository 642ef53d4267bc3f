//! The variables of `srun`.

use super::claim::{Claim, missing};
use super::launcher::Launcher;
use super::origin::Sourced;
use super::process_variable::TERMINAL;
use crate::error::{Error, Result};
use crate::launch::hostlist::{Hostlist, tasks_on};
use crate::launch::variable::Environment;

/// From here on, step numbers are names: of the batch script, of an interactive shell, and such.
const FIRST_RESERVED_STEP: u64 = 0xffff_fff0;
/// Ports of steps are this one and the 9999 behind it.
const FIRST_PORT: u16 = 15_000;

/// What a SLURM step says about this process.
///
/// `SLURM_NTASKS` means nothing alone: a script of `sbatch` has it too, and runs once. The first
/// host and the port follow Lightning's rules, so that a mixed job meets in the same place.
pub(super) fn claim(env: Environment<'_>) -> Result<Option<Claim>> {
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
    if is_shell(env, size.value) {
        return Ok(None);
    }
    let hosts = Sourced::number(env, &["SLURM_STEP_NUM_NODES", "SLURM_NNODES"])?;
    Ok(Some(Claim {
        one_per_host: hosts.is_some_and(|hosts| hosts.value == size.value),
        local_rank: Sourced::number(env, &["SLURM_LOCALID"])?,
        local_world_size: local_size(env)?,
        master_addr: first_host(env)?,
        master_port: Some(port(env, number)),
        ..Claim::new(Launcher::Slurm, rank, size)
    }))
}

/// Whether this runs in a shell that `srun` or `salloc` opened, whose variables are not its own.
///
/// What `srun` starts from within such a shell inherits the name of the job and the port of the
/// terminal, but not the terminal.
fn is_shell(env: Environment<'_>, tasks: usize) -> bool {
    let name = env.variable("SLURM_JOB_NAME");
    let shell = name.is_some_and(|name| ["bash", "interactive"].contains(&name.value.as_str()));
    let in_terminal = env.variable("SLURM_PTY_PORT").and(env.variable(TERMINAL));
    shell && (tasks <= 1 || in_terminal.is_some())
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

/// The port of a step. Steps of one job may run side by side, so only the first has the port of
/// Lightning's rule.
fn port(env: Environment<'_>, step: u64) -> Sourced<u16> {
    let job = env.first_of(&["SLURM_JOB_ID", "SLURM_JOBID"]);
    let number = job.and_then(|job| Some((job.value.parse::<u64>().ok()?, job)));
    // A prime, so that a step meets another job's first one late.
    let port = |number: u64| FIRST_PORT + (number.wrapping_add(997 * step) % 10_000) as u16;
    match number {
        Some((number, job)) => {
            let digits = format!("{FIRST_PORT} + last 4 digits of {job}");
            let rule = match step {
                0 => digits,
                _ => format!("{digits} + 997 * step {step}"),
            };
            Sourced::by_rule(port(number), rule)
        }
        None => Sourced::by_rule(12_910, "no SLURM_JOB_ID"),
    }
}

#[cfg(test)]
mod tests {
    use crate::launch::detection::Launcher;
    use crate::launch::detection::tests::{detected, nothing, numbers, refused};

    /// `srun -N 4 -n 7 train` in a job of five hosts, of the sixth task.
    const SLURM_RANK_5: &str = "SLURM_JOB_ID=1234567 SLURM_JOBID=1234567 SLURM_JOB_NAME=train \
        SLURM_JOB_NODELIST=n[001-005] SLURM_NODELIST=n[001-005] SLURM_JOB_NUM_NODES=5 \
        SLURM_NNODES=4 SLURM_NTASKS=7 SLURM_NPROCS=7 SLURM_TASKS_PER_NODE=2(x3),1 \
        SLURM_STEP_ID=0 SLURM_STEPID=0 SLURM_STEP_NODELIST=n[002-005] SLURM_STEP_NUM_NODES=4 \
        SLURM_STEP_NUM_TASKS=7 SLURM_STEP_TASKS_PER_NODE=2(x3),1 SLURM_PROCID=5 SLURM_LOCALID=1 \
        SLURM_NODEID=2 SLURM_LAUNCH_NODE_IPADDR=10.0.0.9 SLURMD_NODENAME=n004";

    #[test]
    fn a_task_of_a_step() {
        let found = detected(SLURM_RANK_5);
        assert_eq!(found.launcher, Launcher::Slurm);
        assert_eq!(numbers(&found), [5, 7, 1, 2]);
        assert_eq!(found.identity.master_addr, "n002");
        assert_eq!(found.identity.master_port, 15_000 + 4567);
        let line = found.to_string();
        assert!(
            line.contains("first host of SLURM_STEP_NODELIST=n[002-005]"),
            "{line}"
        );

        let given = detected(&format!("{SLURM_RANK_5} MASTER_ADDR=n009 MASTER_PORT=4000"));
        assert_eq!(
            (
                given.identity.master_addr.as_str(),
                given.identity.master_port
            ),
            ("n009", 4000)
        );
        let port = |env: &str| detected(env).identity.master_port;
        assert_eq!(
            port(
                &SLURM_RANK_5
                    .replace("JOB_ID=1234567", "JOB_ID=42")
                    .replace("JOBID", "X")
            ),
            15_042
        );
        assert_eq!(
            port(&SLURM_RANK_5.replace("JOB_ID", "X").replace("JOBID", "X")),
            12_910
        );
    }

    #[test]
    fn steps_side_by_side_have_ports_of_their_own() {
        let port = |step: u64| {
            let step = SLURM_RANK_5.replace("STEP_ID=0", &format!("STEP_ID={step}"));
            let found = detected(&step);
            (found.identity.master_port, found.to_string())
        };
        assert_eq!(port(0).0, 15_000 + 4567);
        assert_eq!(port(1).0, 15_000 + 5564);
        assert!(port(1).1.contains("SLURM_JOB_ID=1234567 + 997 * step 1"));
        let ports: std::collections::BTreeSet<_> = (0..1000).map(|step| port(step).0).collect();
        assert_eq!(ports.len(), 1000);
        assert!(ports.iter().all(|port| (15_000..25_000).contains(port)));
        // One that meets nobody takes any port.
        let alone = "SLURM_JOB_ID=7 SLURM_STEP_ID=1 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0";
        assert_eq!(detected(alone).identity.master_port, 0);
    }

    #[test]
    fn what_is_no_task_of_a_step() {
        // The script of `sbatch` itself, and the shell of `salloc`.
        nothing(&SLURM_RANK_5.replace("SLURM_STEP_ID=0 SLURM_STEPID=0", ""));
        nothing(&SLURM_RANK_5.replace("SLURM_PROCID=5", ""));
        nothing("SLURM_NTASKS=8 SLURM_JOB_ID=1 SLURM_PROCID=0");
        nothing(&SLURM_RANK_5.replace("ID=0", "ID=4294967290"));
        for shell in ["JOB_NAME=bash", "JOB_NAME=interactive"] {
            let shell = SLURM_RANK_5.replace("JOB_NAME=train", shell);
            let in_shell = format!("{shell} SLURM_PTY_PORT=40001");
            nothing(&format!("{in_shell} BURN_DIST_TERMINAL=1"));
            nothing("SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_NTASKS=1 SLURM_JOB_NAME=bash");
            // `srun` from within such a shell, and `srun bash -c train`: each task is a rank.
            for task in [in_shell, format!("{shell} BURN_DIST_TERMINAL=1"), shell] {
                assert_eq!(numbers(&detected(&task)), [5, 7, 1, 2], "{task}");
            }
        }
    }

    #[test]
    fn damaged_variables_are_named() {
        for (from, to, words) in [
            (
                "STEP_NODELIST=n[002-005]",
                "STEP_NODELIST=n[002",
                ["SLURM_STEP_NODELIST", "]"],
            ),
            (
                "STEP_TASKS_PER_NODE=2(x3),1",
                "STEP_TASKS_PER_NODE=2",
                ["TASKS_PER_NODE=2", "host 2"],
            ),
            (
                "SLURM_STEP_ID=0",
                "SLURM_STEP_ID=x",
                ["SLURM_STEP_ID", "\"x\""],
            ),
            (
                "SLURM_PROCID=5",
                "SLURM_PROCID=7",
                ["SLURM_PROCID=7", "SLURM_STEP_NUM_TASKS=7"],
            ),
            (
                "SLURM_LOCALID=1",
                "SLURM_LOCALID=2",
                ["SLURM_LOCALID=2", "2(x3)"],
            ),
        ] {
            assert!(SLURM_RANK_5.contains(from), "{from}");
            refused(&SLURM_RANK_5.replace(from, to), &words);
        }
        refused(
            "SLURM_PROCID=1 SLURM_STEP_ID=0",
            &["SLURM_NTASKS", "SLURM_PROCID=1"],
        );
    }
}
