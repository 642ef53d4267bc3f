//! The role of a process: a rank, a launcher, or alone.

use super::detection::{Detected, detect};
use super::flags::Flags;
use super::node::Node;
use crate::error::Result;

/// What a process is in its world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A launcher made it a rank.
    Rank(Box<Detected>),
    /// It is to start the ranks of its host.
    Launch(Node),
    /// Nobody asked for more than one process.
    Alone,
}

impl Role {
    /// Finds out from a program's flags and the environment.
    ///
    /// The processes that a launcher starts have its flags and its environment too. So a rank of
    /// this library's launcher is a rank whatever the flags say; flags come next, because they ask
    /// for ranks within what another launcher started; then other launchers' ranks; and last what
    /// a cluster says about a whole host.
    ///
    /// # Errors
    /// Those of [`detect`] and [`Flags::node`].
    ///
    /// ```
    /// use burn_dist::launch::{Flags, Role};
    ///
    /// assert_eq!(Role::find(&Flags::default(), |_| None)?, Role::Alone);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn find(flags: &Flags, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let own = |name: &str| env(name).is_some_and(|value| !value.trim().is_empty());
        let is_own = own("BURN_DIST_RANK") && own("BURN_DIST_WORLD_SIZE");
        if (is_own || !flags.is_launch())
            && let Some(found) = detect(&env)?
        {
            return Ok(Self::Rank(Box::new(found)));
        }
        Ok(match flags.node(&env)? {
            Some(node) => Self::Launch(node),
            None => Self::Alone,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::{Launcher, NProc};

    fn role(flags: &Flags, set: &[(&str, &str)]) -> Role {
        let value = |name: &str| {
            set.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.to_string())
        };
        Role::find(flags, value).unwrap()
    }

    const OWN_VARIABLES: [(&str, &str); 6] = [
        ("BURN_DIST_RANK", "1"),
        ("BURN_DIST_WORLD_SIZE", "2"),
        ("BURN_DIST_LOCAL_RANK", "1"),
        ("BURN_DIST_LOCAL_WORLD_SIZE", "2"),
        ("BURN_DIST_MASTER_ADDR", "127.0.0.1"),
        ("BURN_DIST_MASTER_PORT", "29500"),
    ];
    const SLURM_VARIABLES: [(&str, &str); 6] = [
        ("SLURM_PROCID", "1"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_NTASKS", "2"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NODEID", "1"),
        ("SLURM_JOB_NODELIST", "n[1-2]"),
    ];

    fn two() -> Flags {
        Flags {
            nproc_per_node: Some(NProc::Count(2)),
            ..Flags::default()
        }
    }

    #[test]
    fn a_started_rank_does_not_start_ranks() {
        assert!(matches!(role(&two(), &[]), Role::Launch(_)));
        assert!(matches!(role(&two(), &OWN_VARIABLES), Role::Rank(_)));
        let mut pod = OWN_VARIABLES.to_vec();
        pod.push(("PET_NPROC_PER_NODE", "2"));
        assert!(matches!(
            role(&Flags::default(), &pod[6..]),
            Role::Launch(_)
        ));
        assert!(matches!(role(&Flags::default(), &pod), Role::Rank(_)));
    }

    #[test]
    fn flags_ask_for_ranks_within_a_task() {
        let mut step = SLURM_VARIABLES.to_vec();
        step.push(("SLURM_TASKS_PER_NODE", "1(x2)"));
        assert!(matches!(role(&Flags::default(), &step), Role::Rank(_)));
        assert!(matches!(role(&two(), &step), Role::Launch(_)));
        step.extend(OWN_VARIABLES);
        let Role::Rank(found) = role(&two(), &step) else {
            unreachable!("not a rank")
        };
        assert_eq!(found.launcher, Launcher::BurnDist);
    }

    #[test]
    fn a_pod_with_several_processes_launches_them() {
        let pod = [
            ("RANK", "1"),
            ("WORLD_SIZE", "4"),
            ("MASTER_ADDR", "job-master-0"),
            ("MASTER_PORT", "23456"),
            ("PET_NPROC_PER_NODE", "2"),
            ("PET_NNODES", "2"),
            ("PET_NODE_RANK", "1"),
            ("PET_MASTER_ADDR", "job-master-0"),
        ];
        let Role::Launch(node) = role(&Flags::default(), &pod) else {
            unreachable!("not a launcher")
        };
        assert_eq!((node.nodes, node.node_rank, node.ranks), (2, 1, 2));
        assert!(matches!(role(&Flags::default(), &pod[..4]), Role::Rank(_)));
    }
}
