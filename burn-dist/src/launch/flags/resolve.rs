//! One host's part of a world, from the flags and from what a cluster says beside them.

use super::hardware::Hardware;
use super::{Flags, NProc, nodes};
use crate::error::{Error, Result};
use crate::launch::environment::{host, port};
use crate::launch::node::Node;
use crate::launch::variable::{Environment, MOST_RANKS};

/// torchrun's, for several hosts.
const DEFAULT_PORT: u16 = 29_500;

/// A value and the flag or the variable that it is from, as errors name it.
struct Said<T> {
    value: T,
    by: String,
}

fn flag<T: ToString>(name: &str, value: &Option<T>) -> Option<Said<T>>
where
    T: Clone,
{
    let value = value.clone()?;
    let by = format!("{name}={}", value.to_string());
    Some(Said { value, by })
}

/// See [`Flags::node`].
pub(super) fn node(
    flags: &Flags,
    env: Environment<'_>,
    hardware: impl FnOnce(Environment<'_>) -> Hardware,
) -> Result<Option<Node>> {
    let group = match env.variable("LWS_GROUP_SIZE") {
        Some(size) => size.number(1..=MOST_RANKS)?,
        None => 1,
    };
    let asked = env
        .first_of(&["PET_NNODES", "PET_NPROC_PER_NODE"])
        .is_some()
        || group > 1;
    if !flags.is_launch() && !asked {
        return match how(flags) {
            Some(name) => Err(Error::config(
                name,
                "--nproc-per-node, --nnodes or --standalone beside it, as no launcher is at work",
                "none of them",
            )),
            None => Ok(None),
        };
    }
    let nodes = hosts(flags, env)?;
    let node_rank = host_number(flags, env, &nodes)?;
    let ranks = ranks(flags, env, hardware)?;
    if nodes.value.saturating_mul(ranks) > MOST_RANKS {
        let found = format!("{} on {} hosts", ranks, nodes.value);
        return Err(Error::config(
            "number of ranks",
            format!("at most {MOST_RANKS}"),
            found,
        ));
    }
    Ok(Some(Node {
        node_rank,
        ranks,
        master_addr: addr(flags, env, &nodes)?,
        master_port: rendezvous_port(flags, env, &nodes)?,
        max_restarts: match (flags.max_restarts, env.variable("PET_MAX_RESTARTS")) {
            (Some(restarts), _) => restarts,
            (None, Some(restarts)) => restarts.number(0..=usize::MAX)?,
            (None, None) => 0,
        },
        log_dir: flags.log_dir.clone(),
        nodes: nodes.value,
    }))
}

/// A flag that was given although it only says how to start processes.
fn how(flags: &Flags) -> Option<&'static str> {
    let given = [
        ("--node-rank", flags.node_rank.is_some()),
        ("--master-addr", flags.master_addr.is_some()),
        ("--master-port", flags.master_port.is_some()),
        ("--max-restarts", flags.max_restarts.is_some()),
        ("--log-dir", flags.log_dir.is_some()),
    ];
    given
        .iter()
        .find(|(_, given)| *given)
        .map(|(name, _)| *name)
}

/// The number of hosts; standalone is a way to say 1.
fn hosts(flags: &Flags, env: Environment<'_>) -> Result<Said<usize>> {
    if flags.standalone {
        let other = flag("--nnodes", &flags.nnodes).filter(|nodes| nodes.value != 1);
        let rank = flag("--node-rank", &flags.node_rank).filter(|rank| rank.value != 0);
        let addr = flag("--master-addr", &flags.master_addr).map(|addr| addr.by);
        let other = other.or(rank).map(|other| other.by).or(addr);
        return match other {
            Some(other) => Err(Error::config(
                "--standalone",
                "no flag that speaks of other hosts beside it",
                other,
            )),
            None => Ok(Said {
                value: 1,
                by: "--standalone".into(),
            }),
        };
    }
    let said = match (flag("--nnodes", &flags.nnodes), env.variable("PET_NNODES")) {
        (Some(nodes), _) => nodes,
        (None, Some(variable)) => Said {
            value: nodes(&variable.value).map_err(|e| named(e, variable.name))?,
            by: variable.to_string(),
        },
        (None, None) => match env.variable("LWS_GROUP_SIZE") {
            Some(size) => Said {
                value: size.number(1..=MOST_RANKS)?,
                by: size.to_string(),
            },
            None => Said {
                value: 1,
                by: "no --nnodes".into(),
            },
        },
    };
    match (1..=MOST_RANKS).contains(&said.value) {
        true => Ok(said),
        false => {
            let expected = format!("a number of hosts from 1 to {MOST_RANKS}");
            Err(Error::config("number of hosts", expected, said.by))
        }
    }
}

fn host_number(flags: &Flags, env: Environment<'_>, nodes: &Said<usize>) -> Result<usize> {
    // A single host that a flag asks for has nothing to do with the job around it; and an Indexed
    // Job may well be many runs of one host each.
    let one_by_flag = flags.standalone || flags.nnodes == Some(1);
    let variable = match nodes.value {
        1 if one_by_flag => None,
        1 => env.variable("PET_NODE_RANK"),
        _ => env.first_of(&["PET_NODE_RANK", "JOB_COMPLETION_INDEX", "LWS_WORKER_INDEX"]),
    };
    let said = match (flag("--node-rank", &flags.node_rank), variable) {
        (Some(rank), _) => rank,
        (None, Some(variable)) => Said {
            value: variable.number(0..=MOST_RANKS)?,
            by: variable.to_string(),
        },
        (None, None) if nodes.value == 1 => return Ok(0),
        (None, None) => {
            let expected = format!("this host's number, from 0, as {} was given", nodes.by);
            return Err(Error::config("--node-rank", expected, "nothing"));
        }
    };
    match said.value < nodes.value {
        true => Ok(said.value),
        false => {
            let expected = format!("less than {} ({})", nodes.value, nodes.by);
            Err(Error::config("number of this host", expected, said.by))
        }
    }
}

fn ranks(
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

fn addr(flags: &Flags, env: Environment<'_>, nodes: &Said<usize>) -> Result<String> {
    if let Some(addr) = &flags.master_addr {
        return match addr.trim().is_empty() {
            true => Err(Error::config("--master-addr", "a host", "an empty text")),
            false => Ok(addr.clone()),
        };
    }
    // Nobody else comes to a single host, whatever name the cluster has for it.
    if nodes.value == 1 {
        return Ok("127.0.0.1".into());
    }
    match env.first_of(&["PET_MASTER_ADDR", "LWS_LEADER_ADDRESS"]) {
        Some(variable) => host(&variable),
        None => {
            let expected = format!("the host of rank 0, as {} was given", nodes.by);
            Err(Error::config("--master-addr", expected, "nothing"))
        }
    }
}

fn rendezvous_port(flags: &Flags, env: Environment<'_>, nodes: &Said<usize>) -> Result<u16> {
    let several = nodes.value > 1;
    match (flags.master_port, env.variable("PET_MASTER_PORT")) {
        (Some(0), _) if several => {
            let expected = format!("a port from 1 to 65535, as {} was given", nodes.by);
            Err(Error::config("--master-port", expected, "0"))
        }
        (Some(port), _) => Ok(port),
        (None, _) if !several => Ok(0),
        (None, Some(variable)) => port(&variable, 1),
        (None, None) => Ok(DEFAULT_PORT),
    }
}

/// An error about a flag's value, for one that was read from a variable.
fn named(error: Error, variable: &str) -> Error {
    match error {
        Error::Config {
            expected, found, ..
        } => Error::config(variable, expected, found),
        other => other,
    }
}
