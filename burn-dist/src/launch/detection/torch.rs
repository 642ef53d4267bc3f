//! The variables that PyTorch made common: torchrun's, and the plain ones.

use super::claim::{Claim, missing};
use super::launcher::Launcher;
use super::origin::Sourced;
use crate::error::{Error, Result};
use crate::launch::variable::{Environment, MOST_RANKS};

/// What torchrun's agent says about this process, or something else that sets the same variables.
pub(super) fn claim(env: Environment<'_>) -> Result<Option<Claim>> {
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
    // Only the agent sets the run's id; any program may set RANK alone.
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

/// What Lightning's plain variables say about this process; `others` if those of another launcher are set
/// too.
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
            node.value.saturating_mul(local_size.value) + local_rank.value,
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

/// Refuses variables that mean more than one rank where none says which one this is.
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

#[cfg(test)]
mod tests {
    use crate::launch::detection::tests::{detected, nothing, numbers, refused};
    use crate::launch::detection::{Launcher, Origin};

    /// `torchrun --nnodes 2 --nproc-per-node 2 --node-rank 1`, of the third process.
    const TORCHRUN_RANK_2: &str = "LOCAL_RANK=0 RANK=2 GROUP_RANK=1 ROLE_RANK=2 ROLE_NAME=default \
        LOCAL_WORLD_SIZE=2 WORLD_SIZE=4 GROUP_WORLD_SIZE=2 ROLE_WORLD_SIZE=4 \
        MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 TORCHELASTIC_RESTART_COUNT=0 \
        TORCHELASTIC_MAX_RESTARTS=0 TORCHELASTIC_RUN_ID=none TORCHELASTIC_USE_AGENT_STORE=True \
        TORCH_NCCL_ASYNC_ERROR_HANDLING=1 OMP_NUM_THREADS=1";

    #[test]
    fn torchrun_listens_on_its_own_port() {
        let found = detected(TORCHRUN_RANK_2);
        assert_eq!(found.launcher, Launcher::Torchrun);
        assert_eq!(numbers(&found), [2, 4, 0, 2]);
        assert_eq!(found.identity.master_addr, "10.0.0.1");
        assert_eq!(found.identity.master_port, 29501);
        let Origin::Rule(rule) = &found.origins.master_port else {
            unreachable!("not a rule")
        };
        assert!(rule.starts_with("MASTER_PORT=29500 + 1"), "{rule}");

        let own_store = TORCHRUN_RANK_2.replace("STORE=True", "STORE=False");
        assert_eq!(detected(&own_store).identity.master_port, 29500);

        let last = TORCHRUN_RANK_2.replace("29500", "65535");
        refused(
            &last,
            &["MASTER_PORT", "65535", "65534", "BURN_DIST_MASTER_PORT"],
        );
        let own = format!("{last} BURN_DIST_MASTER_PORT=30000");
        assert_eq!(detected(&own).identity.master_port, 30000);
    }

    #[test]
    fn a_pod_of_kubeflow_is_one_rank() {
        let pod = "RANK=1 WORLD_SIZE=2 MASTER_ADDR=job-master-0 MASTER_PORT=23456 \
            PYTHONUNBUFFERED=0 KUBERNETES_SERVICE_HOST=10.96.0.1";
        let found = detected(pod);
        assert_eq!(found.launcher, Launcher::Plain);
        assert_eq!(numbers(&found), [1, 2, 0, 1]);
        assert_eq!(found.identity.master_port, 23456);
        // The first pod is told that the master is localhost, and is one rank all the same.
        let first = "RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=23456";
        assert_eq!(numbers(&detected(first)), [0, 2, 0, 1]);
        // These pods are for a launcher, and WORLD_SIZE counts what it will start.
        let launching = "RANK=1 WORLD_SIZE=4 MASTER_ADDR=job-master-0 MASTER_PORT=23456 \
            PET_NPROC_PER_NODE=2 PET_NNODES=2 PET_NODE_RANK=1";
        nothing(launching);
        // torchrun in such a pod has started this.
        let child = format!("{launching} {TORCHRUN_RANK_2}");
        assert_eq!(numbers(&detected(&child)), [2, 4, 0, 2]);
    }

    #[test]
    fn by_hand_on_one_host() {
        let hand = "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500";
        assert_eq!(numbers(&detected(hand)), [1, 2, 1, 2]);
        refused(
            &hand.replace("127.0.0.1", "n1"),
            &["LOCAL_WORLD_SIZE", "BURN_DIST_LOCAL_WORLD"],
        );
    }

    #[test]
    fn lightning_counts_hosts_or_processes() {
        let host = "MASTER_ADDR=n1 MASTER_PORT=12910 WORLD_SIZE=2 NODE_RANK=1";
        let found = detected(host);
        assert_eq!(found.launcher, Launcher::Lightning);
        assert_eq!(numbers(&found), [1, 2, 0, 1]);

        let process = "MASTER_ADDR=n1 MASTER_PORT=12910 WORLD_SIZE=4 NODE_RANK=1 LOCAL_RANK=1";
        let found = detected(&format!("{process} LOCAL_WORLD_SIZE=2"));
        assert_eq!(numbers(&found), [3, 4, 1, 2]);
        assert_eq!(
            found.origins.rank.to_string(),
            "NODE_RANK=1 * LOCAL_WORLD_SIZE=2 + LOCAL_RANK=1"
        );
        refused(process, &["LOCAL_WORLD_SIZE", "NODE_RANK=1"]);

        // As Lightning itself starts them on one host.
        let local = "MASTER_ADDR=127.0.0.1 MASTER_PORT=12910 WORLD_SIZE=2 NODE_RANK=0 LOCAL_RANK=1";
        assert_eq!(numbers(&detected(local)), [1, 2, 1, 2]);
    }

    #[test]
    fn pieces_without_the_rest() {
        refused("RANK=0 LOCAL_RANK=0", &["WORLD_SIZE", "RANK=0", "nothing"]);
        refused("WORLD_SIZE=4 MASTER_ADDR=n1", &["RANK", "WORLD_SIZE=4"]);
        refused("LOCAL_RANK=1", &["RANK", "LOCAL_RANK=1"]);
        refused("WORLD_SIZE=many", &["WORLD_SIZE", "many"]);
        for harmless in [
            "",
            "WORLD_SIZE=1",
            "LOCAL_RANK=0",
            "NODE_RANK=1",
            "RANK= WORLD_SIZE=",
        ] {
            nothing(harmless);
        }
        nothing("MASTER_ADDR=n1 MASTER_PORT=29500");
        nothing("PET_NNODES=2 WORLD_SIZE=4");
    }
}
