//! The launchers whose variables are known.

use std::fmt::{self, Display};

/// The program that started a process and told it its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Launcher {
    /// `BURN_DIST_RANK` and its companions: this library's launcher, or set by hand.
    BurnDist,
    /// torchrun's agent.
    Torchrun,
    /// `RANK` and `WORLD_SIZE` from something else, such as a Kubernetes operator or a script.
    Plain,
    /// `NODE_RANK` and `WORLD_SIZE`, as Lightning reads them.
    Lightning,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// `mpiexec` of MPICH, Intel MPI or Cray.
    Mpich,
    /// `mpirun_rsh` of MVAPICH2.
    Mvapich2,
    /// `srun`.
    Slurm,
}

impl Launcher {
    /// How a user of this launcher passes two variables on to every rank.
    pub(super) fn passes_master(self) -> &'static str {
        match self {
            Self::BurnDist => "set BURN_DIST_MASTER_ADDR and BURN_DIST_MASTER_PORT",
            Self::OpenMpi => {
                "pass -x MASTER_ADDR=<host of rank 0> -x MASTER_PORT=<a free port> to mpirun"
            }
            Self::Mpich => {
                "pass -genv MASTER_ADDR <host of rank 0> -genv MASTER_PORT <a free port> to mpiexec"
            }
            Self::Mvapich2 => {
                "pass MASTER_ADDR=<host of rank 0> MASTER_PORT=<a free port> to mpirun_rsh"
            }
            _ => "set MASTER_ADDR and MASTER_PORT on every rank",
        }
    }

    /// Whether it is `mpirun` by one of its names.
    pub(super) fn is_mpi(self) -> bool {
        matches!(self, Self::OpenMpi | Self::Mpich | Self::Mvapich2)
    }
}

impl Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BurnDist => "BURN_DIST_* variables",
            Self::Torchrun => "torchrun",
            Self::Plain => "plain RANK and WORLD_SIZE",
            Self::Lightning => "plain NODE_RANK and WORLD_SIZE",
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH or Intel MPI",
            Self::Mvapich2 => "MVAPICH2",
            Self::Slurm => "SLURM",
        })
    }
}
