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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::NProc;

    const VALUE: &str = "1gbit,5ms";

    fn node(flags: &Flags, variable: Option<&str>) -> Result<usize> {
        let value = |name: &str| variable.filter(|_| name == VARIABLE).map(str::to_owned);
        let node = flags.node(value)?;
        Ok(node.map_or(0, |node| node.nodes))
    }

    fn refused(flags: &Flags, variable: Option<&str>, words: &[&str]) {
        let error = node(flags, variable).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    fn nodes(nnodes: Option<NNodes>) -> Flags {
        Flags {
            nnodes,
            nproc_per_node: Some(NProc::Count(2)),
            node_rank: Some(0),
            master_addr: Some("10.0.0.1".into()),
            ..Flags::default()
        }
    }

    fn with_link(flags: Flags) -> Flags {
        Flags {
            link: VALUE.parse().ok(),
            ..flags
        }
    }

    #[test]
    fn several_nodes_may_have_a_link_by_flag_or_variable() {
        let two = nodes(Some(NNodes::from(2)));
        assert_eq!(node(&with_link(two.clone()), None), Ok(2));
        assert_eq!(node(&two, Some(VALUE)), Ok(2));
        let range = nodes(Some(NNodes { least: 1, most: 3 }));
        assert_eq!(node(&with_link(range), None), Ok(3));
        refused(&two, Some("fast"), &[VARIABLE, VALUE, "\"fast\""]);
    }

    #[test]
    fn one_node_and_threads_are_refused_with_what_asked_for_a_link() {
        let one = nodes(Some(NNodes::from(1)));
        let words = ["--link=1gbit,5ms", "--nnodes 2", "--nnodes=1"];
        refused(&with_link(one), None, &words);
        let words = ["BURN_DIST_LINK=1gbit,5ms", "no --nnodes"];
        refused(&nodes(None), Some(VALUE), &words);
        let standalone = Flags {
            standalone: true,
            ..Flags::default()
        };
        refused(&with_link(standalone), None, &["--link", "--standalone"]);
        let none = Flags::default();
        refused(&with_link(none.clone()), None, &["--link", "threads"]);
        refused(&none, Some(VALUE), &["BURN_DIST_LINK=1gbit,5ms", "threads"]);
        assert_eq!(node(&none, None), Ok(0));
    }
}
