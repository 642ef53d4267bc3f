//! What the `mpirun`s say.

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

const ALL: [Names; 3] = [
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
pub(super) fn ranks(env: Environment<'_>) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for names in ALL {
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
