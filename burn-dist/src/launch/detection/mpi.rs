//! The variables of `mpirun`, of each implementation of MPI.

use super::claim::Claim;
use super::launcher::Launcher;
use super::origin::Sourced;
use crate::error::Result;
use crate::launch::variable::Environment;

/// Names that one implementation of MPI has for the four numbers.
struct Names {
    launcher: Launcher,
    rank: &'static str,
    world_size: &'static str,
    local_rank: &'static [&'static str],
    local_world_size: &'static [&'static str],
}

const IMPLEMENTATIONS: [Names; 3] = [
    // OMPI_COMM_WORLD_NODE_RANK is not here: it is no host's number, but this process's number on
    // its host among the ranks of all jobs.
    Names {
        launcher: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        world_size: "OMPI_COMM_WORLD_SIZE",
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        local_world_size: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
    },
    // The second name is Cray's.
    Names {
        launcher: Launcher::Mpich,
        rank: "PMI_RANK",
        world_size: "PMI_SIZE",
        local_rank: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
        local_world_size: &["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"],
    },
    Names {
        launcher: Launcher::Mvapich2,
        rank: "MV2_COMM_WORLD_RANK",
        world_size: "MV2_COMM_WORLD_SIZE",
        local_rank: &["MV2_COMM_WORLD_LOCAL_RANK"],
        local_world_size: &["MV2_COMM_WORLD_LOCAL_SIZE"],
    },
];

/// The claims of all implementations that left their variables.
pub(super) fn claims(env: Environment<'_>) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for names in IMPLEMENTATIONS {
        if let Some(claim) = Claim::read(env, names.launcher, names.rank, names.world_size)? {
            claims.push(Claim {
                local_rank: Sourced::number(env, names.local_rank)?,
                local_world_size: Sourced::number(env, names.local_world_size)?,
                ..claim
            });
        }
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use crate::launch::detection::Launcher;
    use crate::launch::detection::tests::{detected, numbers, refused};

    /// `mpirun -n 4 -H n1:2,n2:2` of Open MPI 5, of the third process; its node rank is that of a
    /// host where another job has a rank already.
    const OPEN_MPI_RANK_2: &str = "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 \
        OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=2 OMPI_COMM_WORLD_NODE_RANK=1 \
        OMPI_UNIVERSE_SIZE=4 OMPI_APP_CTX_NUM_PROCS=4 OMPI_FIRST_RANKS=0 PMIX_RANK=2 \
        PMIX_NAMESPACE=prterun-n1-4711@1 PMIX_VERSION=5.0.3";
    /// `mpiexec -n 2` of MPICH, on one host.
    const MPICH: &str = "PMI_RANK=1 PMI_SIZE=2 PMI_FD=7 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2 \
        BURN_DIST_PARENT_PID=4242";

    #[test]
    fn each_implementation_on_several_hosts() {
        let cray = "PMI_RANK=2 PMI_SIZE=4 PMI_LOCAL_RANK=0 PMI_LOCAL_SIZE=2";
        let intel = "PMI_RANK=2 PMI_SIZE=4 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=2 I_MPI_RANK_CMD=x";
        let mvapich2 = "MV2_COMM_WORLD_RANK=2 MV2_COMM_WORLD_SIZE=4 MV2_COMM_WORLD_LOCAL_RANK=0 \
            MV2_COMM_WORLD_LOCAL_SIZE=2 MPIRUN_RSH_LAUNCH=1";
        for (env, launcher, option) in [
            (OPEN_MPI_RANK_2, Launcher::OpenMpi, "-x MASTER_ADDR"),
            (cray, Launcher::Mpich, "-genv MASTER_ADDR"),
            (intel, Launcher::Mpich, "-genv MASTER_ADDR"),
            (mvapich2, Launcher::Mvapich2, "MASTER_ADDR="),
        ] {
            let found = detected(&format!("{env} MASTER_ADDR=n1 MASTER_PORT=29500"));
            assert_eq!(found.launcher, launcher);
            assert_eq!(numbers(&found), [2, 4, 0, 2], "{env}");
            assert_eq!(found.identity.master_port, 29500);
            refused(env, &["MASTER_ADDR", "4 ranks", option]);
            refused(&format!("{env} MASTER_ADDR=n1"), &["MASTER_PORT", option]);
        }
    }

    #[test]
    fn the_ranks_of_one_host_find_a_port() {
        let here = OPEN_MPI_RANK_2.replace("LOCAL_SIZE=2", "LOCAL_SIZE=4");
        let first = detected(&here);
        assert_eq!(first.identity.master_addr, "127.0.0.1");
        assert!((25_000..29_096).contains(&first.identity.master_port));
        let other = here
            .replace("LD_RANK=2", "LD_RANK=0")
            .replace("PMIX_RANK=2", "PMIX_RANK=0");
        let other = detected(&other);
        assert_eq!(other.identity.master_port, first.identity.master_port);
        assert!(
            first
                .to_string()
                .contains("derived from PMIX_NAMESPACE=prterun-n1-4711@1")
        );
        let later = detected(&here.replace("4711", "4712"));
        assert_ne!(later.identity.master_port, first.identity.master_port);

        assert_eq!(numbers(&detected(MPICH)), [1, 2, 1, 2]);
        let stranger = MPICH.replace("BURN_DIST_PARENT_PID", "PARENT");
        refused(&stranger, &["MASTER_PORT", "-genv"]);
        let given = detected(&format!("{MPICH} MASTER_ADDR=::1 MASTER_PORT=4000"));
        assert_eq!(
            (
                given.identity.master_addr.as_str(),
                given.identity.master_port
            ),
            ("::1", 4000)
        );
    }

    #[test]
    fn a_single_rank_needs_no_address() {
        let found = detected("OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1");
        assert_eq!(numbers(&found), [0, 1, 0, 1]);
        assert_eq!(found.identity.master_port, 0);
    }

    #[test]
    fn pieces_without_the_rest() {
        refused(
            "OMPI_COMM_WORLD_RANK=0",
            &["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK=0"],
        );
        refused("PMI_SIZE=2", &["PMI_RANK", "PMI_SIZE=2"]);
        refused(
            "MV2_COMM_WORLD_RANK=x MV2_COMM_WORLD_SIZE=2",
            &["MV2_COMM_WORLD_RANK", "\"x\""],
        );
        refused(
            "PMI_RANK=1 PMI_SIZE=2 MASTER_ADDR=n1",
            &["BURN_DIST_LOCAL_RANK", "MPICH"],
        );
    }
}
