//! Whether MPI counts as many ranks as the launcher has started.

use crate::error::{Error, Result};

/// The variables in which launchers tell a process how many ranks its job has.
const SIZES: [&str; 4] = [
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
];

/// Refuses a world of one rank in a job of several: the launcher belongs to another MPI than the one that this
/// program is linked with, which then starts every process as a world of its own, without an error.
pub(super) fn check(
    size: usize,
    library: &str,
    env: impl Fn(&'static str) -> Option<String>,
) -> Result<()> {
    let started = |name| Some((name, env(name)?.trim().parse::<usize>().ok()?));
    match SIZES.into_iter().filter_map(started).find(|(_, n)| *n > 1) {
        Some((name, ranks)) if size == 1 => Err(Error::config(
            "MPI in this process",
            format!(
                "a world of {ranks} ranks ({name}={ranks}): start it by the `mpirun` of the MPI that it is \
                 linked with, or build it with that launcher's (MPICC=mpicc.openmpi or MPICC=mpicc.mpich, say)"
            ),
            format!("a world of this process alone, by {library}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_world_of_one_in_a_job_of_several_is_refused() {
        for variable in SIZES {
            let env = |name| (name == variable).then(|| "4".to_string());
            let error = check(1, "MPICH 4.0", env).unwrap_err().to_string();
            for part in [&format!("{variable}=4"), "MPICH 4.0", "mpirun"] {
                assert!(error.contains(part), "{error}");
            }
            assert_eq!(check(4, "MPICH 4.0", env), Ok(()));
        }
    }

    #[test]
    fn one_rank_alone_is_no_error() {
        assert_eq!(check(1, "", |_| None), Ok(()));
        assert_eq!(check(1, "", |_| Some("1".into())), Ok(()));
    }
}
