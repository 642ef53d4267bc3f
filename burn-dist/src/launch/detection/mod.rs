//! Which rank of which world this process is, from the variables its launcher set.
//!
//! Each launcher has its own names for the same few numbers. What one of them has set is a
//! [`Claim`](claim::Claim). There may be variables of several, so the claims are compared ([`agreement`])
//! before one of them is used.

mod agreement;
mod claim;
mod launcher;
mod local;
mod master;
mod mpi;
mod origin;
mod process_variable;
mod slurm;
mod torch;

pub(super) use master::{host, number as port};

pub use launcher::Launcher;
pub use origin::{Origin, Origins};
pub use process_variable::process_variable;

use super::identity::Identity;
use super::variable::{Environment, MOST_RANKS};
use crate::error::{Error, Result};
use origin::Sourced;
use std::fmt::{self, Display};

/// An identity found in an environment.
///
/// Its `Display` is one line for a log:
/// `rank 1 of 4 (OMPI_COMM_WORLD_RANK=1, OMPI_COMM_WORLD_SIZE=4), ... by Open MPI`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// Which rank this process is.
    pub identity: Identity,
    /// The launcher that said so.
    pub launcher: Launcher,
    /// Where each value of the identity came from.
    pub origins: Origins,
}

/// Finds out which rank a process is, whichever launcher started it; `None` if none made it a rank.
///
/// The order is `BURN_DIST_*`, torchrun, Lightning's plain variables, Open MPI, MPICH and Intel
/// MPI, MVAPICH2, a SLURM step. Single `BURN_DIST_*` variables replace single values of the others.
/// A program passes [`process_variable`]; nothing else is looked at.
///
/// # Errors
/// [`Error::Config`] for a missing piece, a value that is no number or out of range, for two
/// launchers that contradict each other, and when ranks are not told where to meet.
///
/// ```
/// let env = |name: &str| match name {
///     "BURN_DIST_RANK" | "BURN_DIST_LOCAL_RANK" => Some("1".to_string()),
///     "BURN_DIST_WORLD_SIZE" | "BURN_DIST_LOCAL_WORLD_SIZE" => Some("2".to_string()),
///     "BURN_DIST_MASTER_ADDR" => Some("127.0.0.1".to_string()),
///     "BURN_DIST_MASTER_PORT" => Some("29500".to_string()),
///     _ => None,
/// };
/// let found = burn_dist::launch::detect(env)?.unwrap();
/// assert_eq!((found.identity.rank, found.identity.world_size), (1, 2));
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub fn detect(env: impl Fn(&str) -> Option<String>) -> Result<Option<Detected>> {
    let env = Environment::new(&env);
    let Some(mut claim) = agreement::claim(env)? else {
        return Ok(None);
    };
    if let Some(rank) = Sourced::number(env, &["BURN_DIST_RANK"])? {
        claim.rank = rank;
    }
    if let Some(size) = Sourced::number(env, &["BURN_DIST_WORLD_SIZE"])? {
        claim.world_size = size;
    }
    below("rank", &claim.rank, "world size", &claim.world_size)?;
    let (local_rank, local_size) = local::rank_and_size(env, &claim)?;
    below("local rank", &local_rank, "local world size", &local_size)?;
    if local_size.value > claim.world_size.value {
        let expected = format!("at most the world size ({})", claim.world_size.origin);
        let found = format!("{} ({})", local_size.value, local_size.origin);
        return Err(Error::config("local world size", expected, found));
    }
    let one_host = local_size.value == claim.world_size.value;
    let addr = master::addr(env, &claim, one_host)?;
    let port = master::port(env, &claim, one_host)?;
    Ok(Some(Detected {
        identity: Identity {
            rank: claim.rank.value,
            world_size: claim.world_size.value,
            local_rank: local_rank.value,
            local_world_size: local_size.value,
            master_addr: addr.value,
            master_port: port.value,
        },
        launcher: claim.launcher,
        origins: Origins {
            rank: claim.rank.origin,
            world_size: claim.world_size.origin,
            local_rank: local_rank.origin,
            local_world_size: local_size.origin,
            master_addr: addr.origin,
            master_port: port.origin,
        },
    }))
}

/// Checks that a rank is one of so many.
fn below(
    rank_name: &str,
    rank: &Sourced<usize>,
    size_name: &str,
    size: &Sourced<usize>,
) -> Result<()> {
    if size.value == 0 {
        let expected = format!("a number from 1 to {MOST_RANKS}");
        return Err(Error::config(
            size_name,
            expected,
            format!("0 ({})", size.origin),
        ));
    }
    if rank.value < size.value {
        return Ok(());
    }
    let expected = format!("less than the {size_name} {} ({})", size.value, size.origin);
    Err(Error::config(
        rank_name,
        expected,
        format!("{} ({})", rank.value, rank.origin),
    ))
}

impl Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, from) = (&self.identity, &self.origins);
        write!(
            f,
            "rank {} of {} ({}, {}), ",
            id.rank, id.world_size, from.rank, from.world_size
        )?;
        write!(
            f,
            "local rank {} of {} ",
            id.local_rank, id.local_world_size
        )?;
        write!(f, "({}, {}), ", from.local_rank, from.local_world_size)?;
        write!(f, "meeting at {} port {} ", id.master_addr, id.master_port)?;
        write!(
            f,
            "({}, {}), by {}",
            from.master_addr, from.master_port, self.launcher
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// What is found among variables written as `NAME=value NAME=value`.
    pub(super) fn find(env: &str) -> Result<Option<Detected>> {
        let split = |word: &str| word.split_once('=').map(|(n, v)| (n.into(), v.into()));
        let set: HashMap<String, String> = env.split_whitespace().filter_map(split).collect();
        detect(|name| set.get(name).cloned())
    }

    pub(super) fn detected(env: &str) -> Detected {
        match find(env) {
            Ok(Some(found)) => found,
            other => unreachable!("{other:?} in {env}"),
        }
    }

    pub(super) fn nothing(env: &str) {
        assert_eq!(find(env), Ok(None), "{env}");
    }

    pub(super) fn refused(env: &str, words: &[&str]) {
        let error = find(env).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "no {word:?} in {error}");
        }
    }

    pub(super) fn numbers(found: &Detected) -> [usize; 4] {
        let id = &found.identity;
        [id.rank, id.world_size, id.local_rank, id.local_world_size]
    }

    const OWN_RANK_1: &str = "BURN_DIST_RANK=1 BURN_DIST_WORLD_SIZE=4 BURN_DIST_LOCAL_RANK=1 \
        BURN_DIST_LOCAL_WORLD_SIZE=2 BURN_DIST_MASTER_ADDR=n1 BURN_DIST_MASTER_PORT=29500";

    #[test]
    fn one_line_says_all_and_why() {
        assert_eq!(
            detected(OWN_RANK_1).to_string(),
            "rank 1 of 4 (BURN_DIST_RANK=1, BURN_DIST_WORLD_SIZE=4), local rank 1 of 2 \
             (BURN_DIST_LOCAL_RANK=1, BURN_DIST_LOCAL_WORLD_SIZE=2), meeting at n1 port 29500 \
             (BURN_DIST_MASTER_ADDR=n1, BURN_DIST_MASTER_PORT=29500), by BURN_DIST_* variables"
        );
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        for (from, to, words) in [
            (
                "RANK=1",
                "RANK=4",
                ["rank", "BURN_DIST_RANK=4", "BURN_DIST_WORLD_SIZE=4"],
            ),
            (
                "LD_SIZE=4",
                "LD_SIZE=0",
                ["world size", "BURN_DIST_WORLD_SIZE=0", "from 1"],
            ),
            (
                "T_RANK=1",
                "T_RANK=x",
                ["BURN_DIST_RANK", "whole number", "\"x\""],
            ),
            (
                "T_RANK=1",
                "T_RANK=-1",
                ["BURN_DIST_RANK", "whole number", "\"-1\""],
            ),
            (
                "LD_SIZE=4",
                "LD_SIZE=9999999",
                ["WORLD_SIZE", "1048576", "9999999"],
            ),
            (
                "LOCAL_RANK=1",
                "LOCAL_RANK=2",
                ["local rank", "LOCAL_RANK=2", "LOCAL_WORLD_SIZE=2"],
            ),
            (
                "LD_SIZE=2",
                "LD_SIZE=0",
                ["local world size", "LOCAL_WORLD_SIZE=0", "from 1"],
            ),
            (
                "LD_SIZE=2",
                "LD_SIZE=5",
                ["local world size", "5", "BURN_DIST_WORLD_SIZE=4"],
            ),
            (
                "29500",
                "0",
                ["BURN_DIST_MASTER_PORT", "1 to 65535", "\"0\""],
            ),
            (
                "29500",
                "65536",
                ["BURN_DIST_MASTER_PORT", "65535", "65536"],
            ),
            (
                "ADDR=n1",
                "ADDR=a/b",
                ["BURN_DIST_MASTER_ADDR", "host", "a/b"],
            ),
        ] {
            assert!(OWN_RANK_1.contains(from), "{from}");
            refused(&OWN_RANK_1.replacen(from, to, 1), &words);
        }
    }

    /// Every name that is looked at.
    fn names() -> Vec<&'static str> {
        "BURN_DIST_RANK BURN_DIST_WORLD_SIZE BURN_DIST_LOCAL_RANK BURN_DIST_LOCAL_WORLD_SIZE \
         BURN_DIST_MASTER_ADDR BURN_DIST_MASTER_PORT BURN_DIST_PARENT_PID BURN_DIST_TERMINAL RANK WORLD_SIZE \
         LOCAL_RANK LOCAL_WORLD_SIZE NODE_RANK MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID \
         TORCHELASTIC_USE_AGENT_STORE PET_NNODES PET_NPROC_PER_NODE OMPI_COMM_WORLD_RANK \
         OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE \
         PMIX_NAMESPACE PMI_RANK PMI_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS MV2_COMM_WORLD_RANK \
         MV2_COMM_WORLD_SIZE SLURM_PROCID SLURM_STEP_ID SLURM_NTASKS SLURM_LOCALID SLURM_NODEID \
         SLURM_STEP_TASKS_PER_NODE SLURM_STEP_NUM_NODES SLURM_STEP_NODELIST SLURM_JOB_ID \
         SLURM_JOB_NAME SLURM_PTY_PORT"
            .split_whitespace()
            .collect()
    }

    proptest! {
        #[test]
        fn no_environment_breaks_it(
            set in prop::collection::hash_map(
                prop::sample::select(names()),
                prop_oneof![
                    4 => "[0-4]",
                    1 => "[0-9]{1,25}",
                    1 => "n\\[[0-9,-]{1,20}\\]",
                    1 => "[0-9]\\(x[0-9]{1,9}\\)",
                    1 => Just("localhost".to_string()),
                    1 => Just("True".to_string()),
                    1 => ".{0,30}",
                ],
                0..39,
            )
        ) {
            if let Ok(Some(found)) = detect(|name| set.get(name).cloned()) {
                let [rank, size, local_rank, local_size] = numbers(&found);
                prop_assert!(rank < size && local_rank < local_size && local_size <= size);
                prop_assert!(size <= MOST_RANKS && !found.identity.master_addr.is_empty());
                prop_assert!(found.identity.master_port > 0 || size == 1);
                prop_assert!(found.to_string().len() < 4000);
            }
        }
    }
}
