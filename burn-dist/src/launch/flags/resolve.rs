//! What to start on this host, from the flags and from a cluster's variables.

use super::arguments::Flags;
use super::hardware::Hardware;
use super::local_world_size::local_world_size;
use super::rejoin::rejoin;
use super::{hosts, link, master};
use crate::error::{Error, Result};
use crate::launch::node::{Elastic, Node};
use crate::launch::variable::{Environment, MOST_RANKS};

impl Flags {
    /// What to start on this host; `None` if neither a flag nor the environment asks for it.
    ///
    /// What no flag says is taken from torchrun's own variables (`PET_*`, which Kubeflow sets),
    /// from the index of a Kubernetes Indexed Job, and from a LeaderWorkerSet. Those of the three
    /// that ask for processes by themselves are `PET_NNODES`, `PET_NPROC_PER_NODE` and a
    /// `LWS_GROUP_SIZE` above 1. As the processes started inherit all of them, ask
    /// [`Role::find`](crate::launch::Role::find), which knows them, rather than this.
    ///
    /// # Errors
    /// [`Error::Config`] for flags or variables that contradict each other, that are out of range,
    /// or that say how to start processes where nothing says that any are to be started.
    pub fn node(&self, env: impl Fn(&str) -> Option<String>) -> Result<Option<Node>> {
        let env = Environment::new(&env);
        node(self, env, Hardware::here)
    }
}

/// See [`Flags::node`].
fn node(
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
        link::check(flags, env, None)?;
        return match how(flags) {
            Some(name) => Err(Error::config(
                name,
                "--nproc-per-node, --nnodes or --standalone beside it, as no launcher is at work",
                "none of them",
            )),
            None => Ok(None),
        };
    }
    let nodes = hosts::count(flags, env)?;
    link::check(flags, env, Some(&nodes))?;
    let node_rank = hosts::number(flags, env, &nodes)?;
    let (least_ranks, ranks) = local_world_size(flags, env, hardware)?;
    let most_nodes = nodes.value.most;
    if most_nodes.saturating_mul(ranks) > MOST_RANKS {
        let found = format!("{ranks} on {most_nodes} hosts");
        return Err(Error::config(
            "number of ranks",
            format!("at most {MOST_RANKS}"),
            found,
        ));
    }
    let may_change = nodes.value.is_range() || least_ranks < ranks;
    if flags.rejoin.is_some() && !may_change {
        let expected = "a range MIN:MAX of --nnodes or --nproc-per-node beside it";
        return Err(Error::config("--rejoin", expected, "none"));
    }
    let rejoin = may_change.then(|| rejoin(flags.rejoin, env)).transpose()?;
    let elastic = rejoin.map(|rejoin| Elastic {
        least_nodes: nodes.value.least,
        least_ranks,
        rejoin,
    });
    Ok(Some(Node {
        node_rank,
        ranks,
        master_addr: master::addr(flags, env, &nodes)?,
        master_port: master::port(flags, env, &nodes)?,
        max_restarts: match (flags.max_restarts, env.variable("PET_MAX_RESTARTS")) {
            (Some(restarts), _) => restarts,
            (None, Some(restarts)) => restarts.number(0..=usize::MAX)?,
            (None, None) => 0,
        },
        log_dir: flags.log_dir.clone(),
        nodes: most_nodes,
        elastic,
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
        ("--rejoin", flags.rejoin.is_some()),
    ];
    given
        .iter()
        .find(|(_, given)| *given)
        .map(|(name, _)| *name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::{NNodes, NProc, Transport};
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::time::Duration;

    fn resolve(flags: &Flags, env: &str, gpus: usize) -> Result<Option<Node>> {
        let split = |word: &str| word.split_once('=').map(|(n, v)| (n.into(), v.into()));
        let set: HashMap<String, String> = env.split_whitespace().filter_map(split).collect();
        let lookup = |name: &str| set.get(name).cloned();
        node(flags, Environment::new(&lookup), |_| Hardware {
            cores: 6,
            gpus,
        })
    }

    fn parts(flags: &Flags, env: &str) -> (usize, usize, usize, String, u16) {
        let node = resolve(flags, env, 4).unwrap().unwrap();
        (
            node.nodes,
            node.node_rank,
            node.ranks,
            node.master_addr,
            node.master_port,
        )
    }

    fn refused(flags: &Flags, env: &str, words: &[&str]) {
        let error = resolve(flags, env, 0).unwrap_err().to_string();
        assert!(
            words.iter().all(|word| error.contains(word)),
            "{words:?}: {error}"
        );
    }

    fn two() -> Flags {
        Flags {
            nnodes: Some(NNodes::from(2)),
            node_rank: Some(1),
            master_addr: Some("10.0.0.1".into()),
            ..Flags::default()
        }
    }

    const KUBEFLOW: &str = "PET_NNODES=2 PET_NPROC_PER_NODE=auto PET_NODE_RANK=1 \
        PET_MASTER_ADDR=job-node-0-0.job PET_MASTER_PORT=29500 JOB_COMPLETION_INDEX=1";
    const LEADER_WORKER_SET: &str =
        "LWS_GROUP_SIZE=3 LWS_WORKER_INDEX=2 LWS_LEADER_ADDRESS=lws-0.lws.default";

    #[test]
    fn flags_with_the_defaults_of_torchrun() {
        let standalone = Flags {
            standalone: true,
            ..Flags::default()
        };
        let home = "127.0.0.1".to_string();
        assert_eq!(parts(&standalone, ""), (1, 0, 1, home.clone(), 0));
        assert_eq!(parts(&standalone, KUBEFLOW), (1, 0, 4, home.clone(), 0));
        assert_eq!(parts(&two(), ""), (2, 1, 1, "10.0.0.1".into(), 29_500));
        let all = Flags {
            nproc_per_node: Some(NProc::Cpu),
            master_port: Some(4000),
            max_restarts: Some(3),
            log_dir: Some("/tmp/logs".into()),
            ..two()
        };
        let node = resolve(&all, "PET_MAX_RESTARTS=9", 4).unwrap().unwrap();
        assert_eq!(
            (node.ranks, node.master_port, node.max_restarts),
            (6, 4000, 3)
        );
        assert_eq!(node.log_dir, Some("/tmp/logs".into()));
    }

    #[test]
    fn a_range_makes_the_size_of_the_world_change() {
        assert_eq!(resolve(&two(), "", 0).unwrap().unwrap().elastic, None);
        let range = Flags {
            nnodes: Some(NNodes { least: 1, most: 2 }),
            rejoin: Some(Duration::from_secs(5)),
            ..two()
        };
        let elastic = |flags: &Flags, env: &str| {
            let node = resolve(flags, env, 4).unwrap().unwrap();
            let Elastic {
                least_nodes,
                least_ranks,
                rejoin,
            } = node.elastic.unwrap();
            let (nodes, ranks) = ((least_nodes, node.nodes), (least_ranks, node.ranks));
            (nodes, ranks, rejoin.as_secs())
        };
        assert_eq!(elastic(&range, "BURN_DIST_REJOIN=7"), ((1, 2), (1, 1), 5));
        let pet = "PET_NNODES=1:2 PET_NPROC_PER_NODE=gpu PET_NODE_RANK=1 PET_MASTER_ADDR=a";
        assert_eq!(elastic(&Flags::default(), pet), ((1, 2), (4, 4), 60));
        let one = Flags {
            nproc_per_node: Some(NProc::Range { least: 2, most: 3 }),
            ..Flags::default()
        };
        assert_eq!(elastic(&one, "BURN_DIST_REJOIN=7"), ((1, 1), (2, 3), 7));
        refused(&one, "BURN_DIST_REJOIN=soon", &["BURN_DIST_REJOIN", "soon"]);
        let fixed = Flags {
            rejoin: range.rejoin,
            ..two()
        };
        refused(&fixed, "", &["--rejoin", "MIN:MAX"]);
        let reversed = Flags {
            nnodes: Some(NNodes { least: 3, most: 2 }),
            ..two()
        };
        refused(&reversed, "", &["--nnodes=3:2", "MIN:MAX"]);
        let reversed = Flags {
            nproc_per_node: Some(NProc::Range { least: 3, most: 2 }),
            ..Flags::default()
        };
        refused(&reversed, "", &["--nproc-per-node", "found 3:2"]);
    }

    #[test]
    fn clusters_that_describe_a_host() {
        let none = Flags::default();
        assert_eq!(
            parts(&none, KUBEFLOW),
            (2, 1, 4, "job-node-0-0.job".into(), 29_500)
        );
        assert_eq!(
            parts(&none, LEADER_WORKER_SET),
            (3, 2, 1, "lws-0.lws.default".into(), 29_500)
        );
        let job = "JOB_COMPLETION_INDEX=1";
        let indexed = Flags {
            node_rank: None,
            ..two()
        };
        assert_eq!(parts(&indexed, job), (2, 1, 1, "10.0.0.1".into(), 29_500));
        // Many runs of one host each, and pods that nothing is asked of.
        let one = Flags {
            nproc_per_node: Some(NProc::Count(2)),
            ..none.clone()
        };
        assert_eq!(parts(&one, job), (1, 0, 2, "127.0.0.1".into(), 0));
        for env in [
            "",
            job,
            "LWS_GROUP_SIZE=1 LWS_WORKER_INDEX=0",
            "PET_MASTER_PORT=29500",
        ] {
            assert_eq!(resolve(&none, env, 0), Ok(None), "{env}");
        }
    }

    #[test]
    fn a_flag_beats_the_environment() {
        let flags = Flags {
            nproc_per_node: Some(NProc::Count(3)),
            node_rank: Some(0),
            master_port: Some(4000),
            ..two()
        };
        for env in [KUBEFLOW, LEADER_WORKER_SET] {
            assert_eq!(parts(&flags, env), (2, 0, 3, "10.0.0.1".into(), 4000));
        }
        let one = Flags {
            nnodes: Some(NNodes::from(1)),
            ..Flags::default()
        };
        assert_eq!(parts(&one, KUBEFLOW), (1, 0, 4, "127.0.0.1".into(), 0));
    }

    #[test]
    fn flags_that_contradict_each_other() {
        let alone = Flags {
            standalone: true,
            ..Flags::default()
        };
        refused(
            &Flags {
                standalone: true,
                ..two()
            },
            "",
            &["--standalone", "--nnodes=2"],
        );
        let addr = Flags {
            master_addr: Some("n1".into()),
            ..alone.clone()
        };
        refused(&addr, "", &["--standalone", "--master-addr=n1"]);
        let rank = Flags {
            node_rank: Some(1),
            ..alone.clone()
        };
        refused(&rank, "", &["--standalone", "--node-rank=1"]);
        let rank = Flags {
            node_rank: Some(2),
            ..two()
        };
        refused(&rank, "", &["--node-rank=2", "--nnodes=2"]);
        refused(
            &Flags {
                node_rank: None,
                ..two()
            },
            "",
            &["--node-rank", "--nnodes=2"],
        );
        refused(
            &Flags {
                master_addr: None,
                ..two()
            },
            "",
            &["--master-addr", "--nnodes=2"],
        );
        let port = Flags {
            master_port: Some(0),
            ..two()
        };
        refused(&port, "", &["--master-port", "--nnodes=2", "found 0"]);
        let none = Flags {
            nproc_per_node: Some(NProc::Count(0)),
            ..two()
        };
        refused(&none, "", &["--nproc-per-node", "from 1", "found 0"]);
        let gpu = Flags {
            nproc_per_node: Some(NProc::Gpu),
            ..two()
        };
        refused(
            &gpu,
            "",
            &[
                "--nproc-per-node=gpu",
                "/dev/nvidia0",
                "CUDA_VISIBLE_DEVICES",
            ],
        );
        let many = Flags {
            nproc_per_node: Some(NProc::Count(1 << 20)),
            ..two()
        };
        refused(&many, "", &["number of ranks", "2 hosts"]);
        refused(
            &Flags {
                nnodes: Some(NNodes::from(0)),
                ..two()
            },
            "",
            &["--nnodes=0"],
        );
        let restarts = Flags {
            max_restarts: Some(3),
            ..Flags::default()
        };
        refused(&restarts, "", &["--max-restarts", "--nproc-per-node"]);
        let transport = Flags {
            transport: Some(Transport::Tcp),
            ..Flags::default()
        };
        assert_eq!(resolve(&transport, "", 0), Ok(None));
    }

    #[test]
    fn variables_that_are_wrong_are_named() {
        let none = Flags::default();
        for (env, words) in [
            ("PET_NNODES=4:1", ["PET_NNODES", "MIN:MAX"]),
            ("PET_NNODES=x", ["PET_NNODES", "\"x\""]),
            ("PET_NPROC_PER_NODE=0", ["PET_NPROC_PER_NODE", "\"0\""]),
            ("PET_NPROC_PER_NODE=gpu", ["PET_NPROC_PER_NODE=gpu", "GPU"]),
            (
                "PET_NNODES=2 PET_NODE_RANK=2",
                ["PET_NODE_RANK=2", "PET_NNODES=2"],
            ),
            (
                "PET_NPROC_PER_NODE=2 PET_NODE_RANK=1",
                ["PET_NODE_RANK=1", "no --nnodes"],
            ),
            (
                "PET_NNODES=2 PET_NODE_RANK=0",
                ["--master-addr", "PET_NNODES=2"],
            ),
            (
                "LWS_GROUP_SIZE=2 LWS_WORKER_INDEX=9",
                ["LWS_WORKER_INDEX=9", "LWS_GROUP_SIZE=2"],
            ),
        ] {
            refused(&none, env, &words);
        }
        refused(&two(), "PET_MASTER_PORT=0", &["PET_MASTER_PORT", "\"0\""]);
    }

    proptest! {
        #[test]
        fn nothing_given_breaks_it(
            flags in (
                any::<bool>(),
                prop::option::of(prop_oneof![0usize..4, any::<usize>()]),
                prop::option::of(prop_oneof![0usize..4, any::<usize>()]),
                prop::option::of(".{0,9}"),
                prop::option::of(any::<u16>()),
            ),
            env in prop::collection::hash_map(
                prop::sample::select(vec![
                    "PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR",
                    "PET_MASTER_PORT", "PET_MAX_RESTARTS", "JOB_COMPLETION_INDEX",
                    "LWS_WORKER_INDEX", "LWS_GROUP_SIZE", "LWS_LEADER_ADDRESS",
                ]),
                prop_oneof!["[0-4]", "[0-9:]{1,25}", "auto|gpu|cpu|n1", ".{0,20}"],
                0..10,
            ),
            gpus in 0usize..3,
        ) {
            let (standalone, nnodes, node_rank, master_addr, master_port) = flags;
            let flags = Flags {
                standalone, nnodes: nnodes.map(NNodes::from), node_rank, master_addr, master_port, ..Flags::default()
            };
            let lookup = |name: &str| env.get(name).cloned();
            let found = node(&flags, Environment::new(&lookup), |_| Hardware { cores: 6, gpus });
            if let Ok(Some(node)) = found {
                prop_assert!(node.node_rank < node.nodes && node.ranks > 0);
                prop_assert!(node.nodes * node.ranks <= MOST_RANKS);
                prop_assert!(node.nodes == 1 || node.master_port > 0);
                prop_assert!(!node.master_addr.is_empty());
            }
        }
    }
}
