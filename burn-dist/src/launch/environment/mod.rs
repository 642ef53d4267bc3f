//! Which rank of which world this process is, from the variables its launcher set.
//!
//! Each launcher has its own names for the same few numbers. What one of them says is a
//! [`Claim`](claim::Claim); several may speak at once, so the claims are compared
//! ([`agreement`]) before one of them is believed.

mod agreement;
mod claim;
mod launcher;
mod local;
mod master;
mod mpi;
mod origin;
mod slurm;
mod torch;

pub(super) use master::{host, number as port};

pub use launcher::Launcher;
pub use origin::{Origin, Origins};

use super::identity::Identity;
use super::variable::{Environment, MOST_RANKS};
use crate::error::{Error, Result};
use origin::Sourced;
use std::fmt::{self, Display};

/// Not set by anyone: [`process_variable`] answers it with the number of the parent process.
const PARENT: &str = "BURN_DIST_PARENT_PID";

/// An identity found in an environment.
///
/// Its `Display` is one line for a log:
/// `rank 1 of 4 (OMPI_COMM_WORLD_RANK=1, OMPI_COMM_WORLD_SIZE=4), ... by Open MPI`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// Which rank this process is.
    pub identity: Identity,
    /// Who said so.
    pub launcher: Launcher,
    /// Where each value of the identity came from.
    pub origins: Origins,
}

/// Finds out which rank a process is, whoever started it; `None` if nobody made it one.
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
    let (local_rank, local_size) = local::ranks(env, &claim)?;
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

/// A variable of this process, as [`detect`] and [`Flags`](super::Flags) look it up in a program.
pub fn process_variable(name: &str) -> Option<String> {
    // Not `var`: a value that is no Unicode shall be an error, not look as if it were not set.
    let value = std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    #[cfg(unix)]
    if name == PARENT && value.is_none() {
        return Some(std::os::unix::process::parent_id().to_string());
    }
    value
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
mod tests {}
