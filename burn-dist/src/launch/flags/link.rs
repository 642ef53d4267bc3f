//! The link between nodes, which `--link` makes as slow as a network.

use super::arguments::Flags;
use super::hosts::Given;
use super::nnodes::NNodes;
use crate::comm::mesh::LinkShape;
use crate::error::{Error, Result};
use crate::launch::variable::Environment;

/// The variable that says the same as the flag.
const VARIABLE: &str = "BURN_DIST_LINK";

/// The link, and what has said so.
fn given(flags: &Flags, env: Environment<'_>) -> Result<Option<Given<LinkShape>>> {
    match (flags.link, env.variable(VARIABLE)) {
        (Some(value), _) => Ok(Some(Given {
            value,
            by: format!("--link={value}"),
        })),
        (None, Some(variable)) => Ok(Some(Given {
            value: variable.value.parse().map_err(|e| variable.named(e))?,
            by: variable.to_string(),
        })),
        (None, None) => Ok(None),
    }
}

/// Checks that there are several nodes if there is a link; `None` are ranks that are threads of one process.
pub(super) fn check(
    flags: &Flags,
    env: Environment<'_>,
    nodes: Option<&Given<NNodes>>,
) -> Result<()> {
    let Some(link) = given(flags, env)? else {
        return Ok(());
    };
    let found = match nodes {
        Some(nodes) if nodes.value.most > 1 => return Ok(()),
        Some(nodes) => format!("{} with one node ({})", link.by, nodes.by),
        None => format!("{}, and ranks that are threads of one process", link.by),
    };
    let expected = "processes on several nodes (--nnodes 2 or more), whose connections it shapes";
    Err(Error::config("--link", expected, found))
}
