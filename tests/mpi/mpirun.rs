//! Starts this program again under `mpirun`, and ends all its processes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The variable that names the case of which a process is a rank.
const CASE: &str = "BURN_DIST_TEST_MPI_CASE";
/// The folder of the ranks' process ids.
const PIDS: &str = "BURN_DIST_TEST_MPI_PIDS";
/// Every case ends within this time.
const LIMIT: u64 = 300;

/// The case that this process is a rank of, if it is one.
pub(crate) fn case() -> Option<String> {
    let name = std::env::var(CASE).ok()?;
    let pids = std::env::var(PIDS).unwrap();
    std::fs::write(Path::new(&pids).join(std::process::id().to_string()), "").unwrap();
    Some(name)
}

/// Runs one case under `mpirun` and returns its output.
pub(crate) fn job(
    case: &str,
    ranks: usize,
    fails_with: Option<&str>,
) -> std::result::Result<String, String> {
    let pids = tempfile::tempdir().unwrap();
    // Should mpirun not keep to its own limit.
    let output = Command::new("timeout")
        .args(["-k", "5", &(LIMIT + 15).to_string()])
        .args(["mpirun", "-n", &ranks.to_string()])
        .arg(std::env::current_exe().unwrap())
        .env(CASE, case)
        .env(PIDS, pids.path())
        .env("RAYON_NUM_THREADS", "1")
        // Options of Open MPI and of MPICH for a machine with few cores.
        .env("MPIEXEC_TIMEOUT", LIMIT.to_string())
        .envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
            ("OMPI_MCA_hwloc_base_binding_policy", "none"),
            ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("mpirun does not start: {e}"))?;
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    let text = text.concat();
    let mut trouble = Vec::new();
    if output.status.success() == fails_with.is_some() {
        trouble.push(format!("mpirun ended with {}", output.status));
    }
    if let Some(words) = fails_with.filter(|words| !text.contains(words)) {
        trouble.push(format!("nobody said {words:?}"));
    }
    let started: Vec<_> = std::fs::read_dir(pids.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    if started.len() != ranks {
        trouble.push(format!("{} ranks came", started.len()));
    }
    let since = Instant::now();
    for pid in started {
        let process = Path::new("/proc").join(pid);
        while process.exists() && since.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if process.exists() {
            trouble.push(format!("{} is still there", process.display()));
        }
    }
    if trouble.is_empty() {
        Ok(text)
    } else {
        Err(format!("{}\n{text}", trouble.join("; ")))
    }
}
