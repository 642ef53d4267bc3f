//! Which launcher's variables count where there are those of several.

use super::claim::{Claim, missing};
use super::launcher::Launcher;
use super::origin::Sourced;
use super::{mpi, slurm, torch};
use crate::error::{Error, Result};
use crate::launch::variable::Environment;

/// The claim that counts, completed by those that agree with it.
///
/// Launchers nest: torchrun runs in a SLURM task, this library's launcher in a pod. The inner one starts
/// processes of its own and counts those, so it differs from the outer one and is right. Any other
/// difference is an error, as either claim could be the wrong one.
pub(super) fn claim(env: Environment<'_>) -> Result<Option<Claim>> {
    let rank = Sourced::number(env, &["BURN_DIST_RANK"])?;
    let size = Sourced::number(env, &["BURN_DIST_WORLD_SIZE"])?;
    // Set by this library's launcher for its own processes, or on purpose.
    if let (Some(rank), Some(size)) = (&rank, &size) {
        let claim = Claim::new(Launcher::BurnDist, rank.clone(), size.clone());
        return Ok(Some(claim));
    }
    let mut claims = Vec::from_iter(torch::claim(env)?);
    // torchrun's agent starts processes of its own, and is the inner launcher.
    if let Some(claim) = claims.pop_if(|claim| claim.launcher == Launcher::Torchrun) {
        return Ok(Some(claim));
    }
    claims.extend(mpi::claims(env)?);
    claims.extend(slurm::claim(env)?);
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

#[cfg(test)]
mod tests {
    use crate::launch::detection::Launcher;
    use crate::launch::detection::tests::{detected, numbers, refused};

    const SLURM_RANK_1: &str = "SLURM_PROCID=1 SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_LOCALID=0 \
        SLURM_NODEID=1 SLURM_NNODES=2 SLURM_TASKS_PER_NODE=1(x2) SLURM_JOB_NODELIST=n[1-2] \
        SLURM_JOB_ID=77";
    const TORCHRUN_RANK_3: &str = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 GROUP_RANK=1 \
        MASTER_ADDR=n1 MASTER_PORT=29400 TORCHELASTIC_RUN_ID=77";
    const OPEN_MPI_RANK_3: &str = "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 \
        OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2";
    const OWN_RANK_2: &str = "BURN_DIST_RANK=2 BURN_DIST_WORLD_SIZE=3 BURN_DIST_LOCAL_RANK=0 \
        BURN_DIST_LOCAL_WORLD_SIZE=1 BURN_DIST_MASTER_ADDR=n9 BURN_DIST_MASTER_PORT=4000";

    #[test]
    fn the_inner_launcher_wins() {
        let found = detected(&format!("{SLURM_RANK_1} {TORCHRUN_RANK_3}"));
        assert_eq!(
            (found.launcher, numbers(&found)),
            (Launcher::Torchrun, [3, 4, 1, 2])
        );
        // One `mpirun` rank per host, each of which runs torchrun.
        let one_each = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2";
        let found = detected(&format!("{one_each} {TORCHRUN_RANK_3}"));
        assert_eq!(found.launcher, Launcher::Torchrun);
        let found = detected(&format!(
            "{SLURM_RANK_1} {TORCHRUN_RANK_3} {OPEN_MPI_RANK_3} {OWN_RANK_2}"
        ));
        assert_eq!(
            (found.launcher, numbers(&found)),
            (Launcher::BurnDist, [2, 3, 0, 1])
        );
        // `srun` starts a daemon per host, and those start the ranks.
        let found = detected(&format!(
            "{SLURM_RANK_1} {OPEN_MPI_RANK_3} MASTER_ADDR=n1 MASTER_PORT=4000"
        ));
        assert_eq!(
            (found.launcher, numbers(&found)),
            (Launcher::OpenMpi, [3, 4, 1, 2])
        );
    }

    #[test]
    fn launchers_that_agree_complete_each_other() {
        let exported = format!("{SLURM_RANK_1} RANK=1 WORLD_SIZE=2 MASTER_PORT=4000");
        let found = detected(&exported);
        assert_eq!(
            (found.launcher, numbers(&found)),
            (Launcher::Plain, [1, 2, 0, 1])
        );
        assert_eq!(found.origins.local_rank.to_string(), "SLURM_LOCALID=0");
        assert_eq!(
            (
                found.identity.master_addr.as_str(),
                found.identity.master_port
            ),
            ("n1", 4000)
        );

        // `srun --mpi=pmi2`.
        let found = detected(&format!("{SLURM_RANK_1} PMI_RANK=1 PMI_SIZE=2"));
        assert_eq!(
            (found.launcher, numbers(&found)),
            (Launcher::Mpich, [1, 2, 0, 1])
        );
        assert_eq!(
            (
                found.identity.master_addr.as_str(),
                found.identity.master_port
            ),
            ("n1", 15_077)
        );

        // A script may export what describes the host, and less than a rank.
        let found = detected(&format!("{SLURM_RANK_1} NODE_RANK=1 WORLD_SIZE=8"));
        assert_eq!(
            (found.launcher, numbers(&found)),
            (Launcher::Slurm, [1, 2, 0, 1])
        );
    }

    #[test]
    fn launchers_that_contradict_each_other() {
        let by_hand = TORCHRUN_RANK_3.replace("TORCHELASTIC_RUN_ID=77", "");
        refused(
            &format!("{SLURM_RANK_1} {by_hand}"),
            &[
                "RANK=3",
                "WORLD_SIZE=4",
                "SLURM_PROCID=1",
                "SLURM_NTASKS=2",
                "BURN_DIST_RANK",
            ],
        );
        refused(
            &format!("{OPEN_MPI_RANK_3} PMI_RANK=3 PMI_SIZE=5"),
            &["OMPI_COMM_WORLD_SIZE=4", "PMI_SIZE=5"],
        );
        // Four tasks of one host that each run `mpirun` are four worlds, not one.
        let crowded = SLURM_RANK_1
            .replace("NNODES=2", "NNODES=1")
            .replace("1(x2)", "2,2");
        refused(
            &format!("{crowded} {OPEN_MPI_RANK_3}"),
            &["SLURM_PROCID=1", "OMPI_COMM_WORLD_RANK=3"],
        );
        let lightning = "NODE_RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=n1";
        refused(
            &format!("{SLURM_RANK_1} {lightning}"),
            &["LOCAL_RANK=0", "SLURM_PROCID=1"],
        );
    }

    #[test]
    fn single_values_are_replaced() {
        let own = "BURN_DIST_MASTER_PORT=5000 BURN_DIST_LOCAL_RANK=0 BURN_DIST_RANK=2";
        let found = detected(&format!("{TORCHRUN_RANK_3} {own}"));
        assert_eq!(
            (found.launcher, numbers(&found)),
            (Launcher::Torchrun, [2, 4, 0, 2])
        );
        assert_eq!(
            (
                found.identity.master_addr.as_str(),
                found.identity.master_port
            ),
            ("n1", 5000)
        );
        refused(
            "BURN_DIST_RANK=0",
            &["BURN_DIST_WORLD_SIZE", "BURN_DIST_RANK=0"],
        );
        refused(
            "BURN_DIST_WORLD_SIZE=2",
            &["BURN_DIST_RANK", "BURN_DIST_WORLD_SIZE=2"],
        );
        let here = "BURN_DIST_RANK=1 BURN_DIST_WORLD_SIZE=2 BURN_DIST_MASTER_ADDR=localhost";
        assert_eq!(
            numbers(&detected(&format!("{here} BURN_DIST_MASTER_PORT=4000"))),
            [1, 2, 1, 2]
        );
        refused(here, &["MASTER_PORT", "BURN_DIST_MASTER_PORT"]);
        let apart = "BURN_DIST_RANK=1 BURN_DIST_WORLD_SIZE=2 BURN_DIST_MASTER_ADDR=n1";
        refused(apart, &["BURN_DIST_LOCAL_RANK"]);
    }
}
