//! The variables that PyTorch made common: torchrun's, and the plain ones.

use super::claim::{Claim, missing};
use super::launcher::Launcher;
use super::origin::Sourced;
use crate::error::{Error, Result};
use crate::launch::variable::{Environment, MOST_RANKS};

/// What torchrun's agent, or whoever sets the same variables, says.
pub(super) fn ranks(env: Environment<'_>) -> Result<Option<Claim>> {
    let Some(rank) = Sourced::number(env, &["RANK"])? else {
        return Ok(None);
    };
    let local_rank = Sourced::number(env, &["LOCAL_RANK"])?;
    // Without LOCAL_RANK these are per host or pod, as Kubeflow's PyTorchJob sets them. If it also
    // tells a launcher how many processes to start here, WORLD_SIZE may count those, and this
    // process is none of them.
    if local_rank.is_none()
        && env
            .first_of(&["PET_NPROC_PER_NODE", "PET_NNODES"])
            .is_some()
    {
        return Ok(None);
    }
    let Some(size) = Sourced::number(env, &["WORLD_SIZE"])? else {
        return Err(missing("WORLD_SIZE", &rank));
    };
    // Only the agent sets the run's id; RANK alone may be anybody's.
    let launcher = match env.variable("TORCHELASTIC_RUN_ID") {
        Some(_) => Launcher::Torchrun,
        None => Launcher::Plain,
    };
    Ok(Some(Claim {
        one_per_host: local_rank.is_none(),
        local_rank,
        local_world_size: Sourced::number(env, &["LOCAL_WORLD_SIZE"])?,
        ..Claim::new(launcher, rank, size)
    }))
}

/// What Lightning's plain variables say; `others` if another launcher speaks too.
///
/// `NODE_RANK` describes a host. Beside a launcher that describes processes it says nothing new,
/// unless `LOCAL_RANK` makes it a process's too.
pub(super) fn lightning(env: Environment<'_>, others: bool) -> Result<Option<Claim>> {
    let node = Sourced::number(env, &["NODE_RANK"])?;
    let size = Sourced::number(env, &["WORLD_SIZE"])?;
    let (Some(node), Some(size), None) = (node, size, env.variable("RANK")) else {
        return Ok(None);
    };
    let local_size = Sourced::number(env, &["BURN_DIST_LOCAL_WORLD_SIZE", "LOCAL_WORLD_SIZE"])?;
    let Some(local_rank) = Sourced::number(env, &["LOCAL_RANK"])? else {
        let alone = Claim {
            one_per_host: true,
            ..Claim::new(Launcher::Lightning, node, size)
        };
        return Ok((!others).then_some(alone));
    };
    let rank = match &local_size {
        _ if node.value == 0 => local_rank.clone(),
        Some(local_size) => Sourced::by_rule(
            // None of the three is above MOST_RANKS.
            node.value * local_size.value + local_rank.value,
            format!(
                "{} * {} + {}",
                node.origin, local_size.origin, local_rank.origin
            ),
        ),
        None if others => return Ok(None),
        None => return Err(missing("LOCAL_WORLD_SIZE", &node)),
    };
    Ok(Some(Claim {
        local_rank: Some(local_rank),
        local_world_size: local_size,
        ..Claim::new(Launcher::Lightning, rank, size)
    }))
}

/// Refuses variables that speak of more ranks while nothing says which one this is.
pub(super) fn refuse_rest(env: Environment<'_>) -> Result<()> {
    // For a launcher to read, which sets the others.
    if env
        .first_of(&["PET_NPROC_PER_NODE", "PET_NNODES"])
        .is_some()
    {
        return Ok(());
    }
    for name in ["WORLD_SIZE", "LOCAL_RANK"] {
        let Some(variable) = env.variable(name) else {
            continue;
        };
        let number = variable.number(0..=MOST_RANKS)?;
        if number > usize::from(name == "WORLD_SIZE") {
            let expected = format!("this process's rank, as {variable} is set (or unset that)");
            return Err(Error::config("RANK", expected, "nothing"));
        }
    }
    Ok(())
}
