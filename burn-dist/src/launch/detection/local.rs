//! The local rank and the local world size.

use super::claim::Claim;
use super::launcher::Launcher;
use super::master::given_addr;
use super::origin::Sourced;
use crate::error::{Error, Result};
use crate::launch::variable::Environment;

/// The local rank and the local world size.
///
/// Guesses are only made where nothing else can be meant, because a wrong one puts two ranks on
/// one GPU.
pub(super) fn rank_and_size(
    env: Environment<'_>,
    claim: &Claim,
) -> Result<(Sourced<usize>, Sourced<usize>)> {
    let own = |name, claimed: &Option<_>| -> Result<_> {
        Ok(Sourced::number(env, &[name])?.or_else(|| claimed.clone()))
    };
    let rank = own("BURN_DIST_LOCAL_RANK", &claim.local_rank)?;
    let size = own("BURN_DIST_LOCAL_WORLD_SIZE", &claim.local_world_size)?;
    match (rank, size) {
        (Some(rank), Some(size)) => Ok((rank, size)),
        (rank, size) if claim.world_size.value == 1 => {
            let rule = || "the only rank".to_string();
            let rank = rank.unwrap_or_else(|| Sourced::by_rule(0, rule()));
            Ok((rank, size.unwrap_or_else(|| Sourced::by_rule(1, rule()))))
        }
        (None, Some(size)) if size.value == 1 => {
            let rank = Sourced::by_rule(0, format!("alone here, as {}", size.origin));
            Ok((rank, size))
        }
        // Before the next rule: Kubeflow tells the first pod that the master is localhost.
        (None, None) if claim.one_per_host => {
            let rule = || "one rank per host, as no local rank is set".to_string();
            Ok((Sourced::by_rule(0, rule()), Sourced::by_rule(1, rule())))
        }
        (rank, size) => {
            let addr = given_addr(env)?.filter(|addr| is_loopback(&addr.value));
            let Some(addr) = addr else {
                return Err(undecided(claim.launcher, rank.is_none()));
            };
            let rule = || format!("all ranks are here, as {}", addr.origin);
            let rank = rank.unwrap_or_else(|| Sourced::by_rule(claim.rank.value, rule()));
            let all = claim.world_size.value;
            Ok((rank, size.unwrap_or_else(|| Sourced::by_rule(all, rule()))))
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

fn undecided(launcher: Launcher, no_rank: bool) -> Error {
    let (name, what) = if no_rank {
        ("LOCAL_RANK", "this rank's number on its host")
    } else {
        ("LOCAL_WORLD_SIZE", "the number of ranks on this host")
    };
    let expected = format!("{what}, which {launcher} did not give: set BURN_DIST_{name}");
    Error::config(name, expected, "nothing")
}
