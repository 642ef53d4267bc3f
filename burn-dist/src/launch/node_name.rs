//! What the processes of one node have in common.

use super::settings::Settings;
use crate::comm::mesh::LinkShape;
use crate::warning::warn;

/// The link of this rank, and a text that is equal on the processes that may share memory with it.
///
/// With a link these are the processes of its node, of which a host may have several. A world of several nodes that
/// goes on with one has no link.
pub(super) fn link_and_host(
    link: Option<LinkShape>,
    settings: &Settings,
    world: usize,
) -> (Option<LinkShape>, String) {
    let Settings {
        host,
        node,
        nodes,
        initial_world,
        ..
    } = settings;
    let Some(link) = link else {
        return (None, host.clone());
    };
    if *nodes == Some(1) && initial_world.is_some_and(|initial| initial > world) {
        warn(format_args!(
            "one node is left, so the link of {link} is not used"
        ));
        return (None, host.clone());
    }
    let host = match node {
        Some(node) => format!("{host}/node {node}"),
        None => host.clone(),
    };
    (Some(link), host)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::variable::Environment;

    fn found(env: &str, link: Option<&str>, world: usize) -> (Option<String>, String) {
        let value = |name: &str| {
            let mut pairs = env.split_whitespace().filter_map(|w| w.split_once('='));
            pairs.find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
        };
        let settings = Settings::read(Environment::new(&value)).unwrap();
        let link = link.map(|link| link.parse().unwrap());
        let (link, host) = link_and_host(link, &settings, world);
        (link.map(|link| link.to_string()), host)
    }

    #[test]
    fn a_link_parts_the_nodes_of_one_host() {
        let env = "BURN_DIST_HOST_ID=h GROUP_RANK=1 GROUP_WORLD_SIZE=2 SLURM_NODEID=0";
        assert_eq!(found(env, None, 2), (None, "h".into()));
        let (link, host) = found(env, Some("1gbit,5ms"), 2);
        assert_eq!(
            (link.as_deref(), host.as_str()),
            (Some("1gbit,5ms"), "h/node 1")
        );
        let slurm = found("BURN_DIST_HOST_ID=h SLURM_NODEID=3", Some("1gbit,5ms"), 2);
        assert_eq!(slurm.1, "h/node 3");
        let unknown = found("BURN_DIST_HOST_ID=h", Some("1gbit,5ms"), 2);
        assert_eq!(unknown.1, "h", "the host is the node");
    }

    #[test]
    fn a_world_that_has_shrunk_to_one_node_goes_on_without_a_link() {
        let env =
            "BURN_DIST_HOST_ID=h GROUP_RANK=0 GROUP_WORLD_SIZE=1 BURN_DIST_INITIAL_WORLD_SIZE=4";
        assert_eq!(found(env, Some("1gbit,5ms"), 2), (None, "h".into()));
        assert!(
            found(env, Some("1gbit,5ms"), 4).0.is_some(),
            "an error later"
        );
    }
}
