//! The number of hosts, and this host's number.

use super::arguments::Flags;
use super::nnodes::NNodes;
use crate::error::{Error, Result};
use crate::launch::variable::{Environment, MOST_RANKS};

/// A value and the flag or the variable that it is from, as errors name it.
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) by: String,
}

fn flag<T: Clone + ToString>(name: &str, value: &Option<T>) -> Option<Given<T>> {
    let value = value.clone()?;
    let by = format!("{name}={}", value.to_string());
    Some(Given { value, by })
}

/// The number of hosts; standalone is a way to say 1.
pub(super) fn count(flags: &Flags, env: Environment<'_>) -> Result<Given<NNodes>> {
    if flags.standalone {
        let other = flag("--nnodes", &flags.nnodes).filter(|nodes| nodes.value.most != 1);
        let rank = flag("--node-rank", &flags.node_rank).filter(|rank| rank.value != 0);
        let addr = flag("--master-addr", &flags.master_addr).map(|addr| addr.by);
        let other = other.map(|nodes| nodes.by).or(rank.map(|rank| rank.by));
        return match other.or(addr) {
            Some(other) => Err(Error::config(
                "--standalone",
                "no flag that speaks of other hosts beside it",
                other,
            )),
            None => Ok(Given {
                value: NNodes::from(1),
                by: "--standalone".into(),
            }),
        };
    }
    let given = match (flag("--nnodes", &flags.nnodes), env.variable("PET_NNODES")) {
        (Some(nodes), _) => nodes,
        (None, Some(variable)) => Given {
            value: variable.value.parse().map_err(|e| variable.named(e))?,
            by: variable.to_string(),
        },
        (None, None) => match env.variable("LWS_GROUP_SIZE") {
            Some(size) => Given {
                value: size.number(1..=MOST_RANKS)?.into(),
                by: size.to_string(),
            },
            None => Given {
                value: NNodes::from(1),
                by: "no --nnodes".into(),
            },
        },
    };
    let NNodes { least, most } = given.value;
    if least == 0 || least > most || most > MOST_RANKS {
        let expected = format!("a number of hosts from 1 to {MOST_RANKS}, or MIN:MAX of two such");
        return Err(Error::config("number of hosts", expected, given.by));
    }
    Ok(given)
}

/// This host's number.
pub(super) fn number(flags: &Flags, env: Environment<'_>, nodes: &Given<NNodes>) -> Result<usize> {
    let most = nodes.value.most;
    // A single host that a flag asks for has nothing to do with the job around it; and an Indexed
    // Job may well be many runs of one host each.
    let one_by_flag = flags.standalone || flags.nnodes == Some(NNodes::from(1));
    let variable = match most {
        1 if one_by_flag => None,
        1 => env.variable("PET_NODE_RANK"),
        _ => env.first_of(&["PET_NODE_RANK", "JOB_COMPLETION_INDEX", "LWS_WORKER_INDEX"]),
    };
    let given = match (flag("--node-rank", &flags.node_rank), variable) {
        (Some(rank), _) => rank,
        (None, Some(variable)) => Given {
            value: variable.number(0..=MOST_RANKS)?,
            by: variable.to_string(),
        },
        (None, None) if most == 1 => return Ok(0),
        (None, None) => {
            let expected = format!("this host's number, from 0, as {} was given", nodes.by);
            return Err(Error::config("--node-rank", expected, "nothing"));
        }
    };
    if given.value >= most {
        let expected = format!("less than {most} ({})", nodes.by);
        return Err(Error::config("number of this host", expected, given.by));
    }
    Ok(given.value)
}
