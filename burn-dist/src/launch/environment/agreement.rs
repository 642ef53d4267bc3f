//! Whom to believe when several launchers left their variables.

use super::claim::{Claim, missing};
use super::launcher::Launcher;
use super::origin::Sourced;
use super::{mpi, slurm, torch};
use crate::error::{Error, Result};
use crate::launch::variable::Environment;

/// The claim that counts, completed by those that agree with it.
///
/// Launchers nest: torchrun runs in a SLURM task, this library's launcher in a pod. The inner one
/// makes new processes and counts those, so it differs from the outer one and is right. Whatever
/// else differs is a mistake, and either answer could be the wrong one.
pub(super) fn claim(env: Environment<'_>) -> Result<Option<Claim>> {
    let rank = Sourced::number(env, &["BURN_DIST_RANK"])?;
    let size = Sourced::number(env, &["BURN_DIST_WORLD_SIZE"])?;
    // Set by this library's launcher for its own processes, or on purpose.
    if let (Some(rank), Some(size)) = (&rank, &size) {
        let claim = Claim::new(Launcher::BurnDist, rank.clone(), size.clone());
        return Ok(Some(claim));
    }
    let mut claims = Vec::from_iter(torch::ranks(env)?);
    // An agent starts processes of its own, in whatever it was started in.
    if let Some(claim) = claims.pop_if(|claim| claim.launcher == Launcher::Torchrun) {
        return Ok(Some(claim));
    }
    claims.extend(mpi::ranks(env)?);
    claims.extend(slurm::ranks(env)?);
    if let Some(claim) = torch::lightning(env, !claims.is_empty())? {
        claims.insert(0, claim);
    }
    let mut claims = claims.into_iter();
    let Some(mut first) = claims.next() else {
        return match (rank, size) {
            (Some(rank), _) => Err(missing("BURN_DIST_WORLD_SIZE", &rank)),
            (None, Some(size)) => Err(missing("BURN_DIST_RANK", &size)),
            (None, None) => torch::refuse_rest(env).map(|()| None),
        };
    };
    for other in claims {
        if first.agrees_with(&other) {
            first.fill_from(other);
        } else if !is_around(&other, &first) {
            return Err(contradiction(&first, &other));
        }
    }
    Ok(Some(first))
}

/// Whether one launcher only started the daemons of the other.
///
/// `mpirun` in a SLURM job has `srun` start one daemon per host, whose variables its ranks inherit.
fn is_around(outer: &Claim, inner: &Claim) -> bool {
    outer.launcher == Launcher::Slurm && outer.one_per_host && inner.launcher.is_mpi()
}

fn contradiction(first: &Claim, other: &Claim) -> Error {
    Error::config(
        "variables that say which rank this is",
        "one answer (unset those of one launcher, or set BURN_DIST_RANK and BURN_DIST_WORLD_SIZE)",
        format!("{first}, and {other}"),
    )
}
