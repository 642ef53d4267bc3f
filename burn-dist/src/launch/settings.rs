//! The variables that say how a rank works with the others; which rank it is stands in `detection`.

use super::variable::{Environment, MOST_RANKS};
use crate::comm::mesh::{LinkShape, Transport, host};
use crate::error::Result;
use crate::rendezvous::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// How one process works together with the others.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) secret: Secret,
    /// The length of the secret in bytes, if a user has set one: a job's number does not count.
    pub(super) secret_length: Option<usize>,
    pub(super) attempt: usize,
    /// How often the world was started again, by the launcher and by a scheduler around it.
    pub(super) restarts: usize,
    /// Number of ranks of the first start, where the launcher says so.
    pub(super) initial_world: Option<usize>,
    pub(super) heartbeat: Duration,
    /// How long a collective may wait, where the environment says so.
    pub(super) deadline: Option<Duration>,
    /// How long to wait for the other ranks to come.
    pub(super) patience: Duration,
    pub(super) transport: Option<Transport>,
    /// The bandwidth and latency between nodes, where the environment says so.
    pub(super) link: Option<LinkShape>,
    /// This node's number, and how many nodes there are, where a launcher says so.
    pub(super) node: Option<String>,
    pub(super) nodes: Option<usize>,
    /// Processes with equal hosts may share memory.
    pub(super) host: String,
    /// Where a failed rank writes its flight record.
    pub(super) flights: Option<PathBuf>,
    /// Where a failed rank writes why.
    pub(super) error_file: Option<PathBuf>,
    /// The file to make once this rank has joined.
    pub(super) ready_file: Option<PathBuf>,
    pub(super) port_reserved: bool,
    /// Ports from the master's on that rank 0 may take instead.
    pub(super) more_ports: u16,
}

/// The largest restart count that is accepted.
const MAX_RESTARTS: usize = u32::MAX as usize;
/// torchrun's agent has the master's port, and nothing reserves the next one: so many after it are tried.
const PORTS_AFTER_AGENT: u16 = 15;

impl Settings {
    /// Reads the variables; see the table in [`launch`](super).
    ///
    /// # Errors
    /// [`Error::Config`] names the variable that makes no sense.
    pub(super) fn read(env: Environment<'_>) -> Result<Self> {
        let text = |name| env.variable(name).map(|variable| variable.value);
        let path = |name| text(name).map(PathBuf::from);
        let seconds = |name| env.variable(name).map(|v| v.seconds()).transpose();
        let given = text("BURN_DIST_SECRET");
        // Weak, but it keeps two jobs apart whose ports have been mixed up.
        let torch = || Some(text("TORCHELASTIC_RUN_ID")? + "/" + &text("MASTER_PORT")?);
        let jobs = ["SLURM_JOB_ID", "PMIX_NAMESPACE", "PMI_JOBID", "MPIRUN_ID"];
        let job = || torch().or_else(|| env.first_of(&jobs).map(|job| job.value));
        let agent = text("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        let beside_agent = agent && env.variable("BURN_DIST_MASTER_PORT").is_none();
        let restarts = env.first_of(&["BURN_DIST_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"]);
        let attempt = restarts.map(|count| count.number(0..=MAX_RESTARTS));
        let attempt = attempt.transpose()?.unwrap_or(0);
        // Only for the program: ranks that `mpirun` starts over ssh need not have it.
        let requeued = env.variable("SLURM_RESTART_COUNT");
        let requeued = requeued.map(|count| count.number(0..=MAX_RESTARTS));
        let initial = env.variable("BURN_DIST_INITIAL_WORLD_SIZE");
        let initial = initial.map(|size| size.number(1..=MOST_RANKS));
        let transport = env.variable("BURN_DIST_TRANSPORT").map(|variable| {
            let known = variable.value.parse();
            known.map_err(|_| variable.wrong("auto, tcp, shm or ring"))
        });
        let link = env.variable("BURN_DIST_LINK");
        let link = link.map(|v| v.value.parse().map_err(|e| v.named(e)));
        let node = env.first_of(&["GROUP_RANK", "NODE_RANK", "SLURM_NODEID"]);
        let nodes = env.variable("GROUP_WORLD_SIZE");
        Ok(Self {
            secret_length: given.as_ref().map(String::len),
            secret: Secret::new(&given.or_else(job).unwrap_or_default()),
            attempt,
            restarts: attempt.saturating_add(requeued.transpose()?.unwrap_or(0)),
            initial_world: initial.transpose()?,
            heartbeat: seconds("BURN_DIST_HEARTBEAT")?.unwrap_or(Duration::from_secs(10)),
            deadline: seconds("BURN_DIST_TIMEOUT")?,
            patience: seconds("BURN_DIST_JOIN_TIMEOUT")?.unwrap_or(Duration::from_secs(300)),
            transport: transport.transpose()?,
            link: link.transpose()?,
            node: node.map(|node| node.value),
            nodes: nodes.and_then(|nodes| nodes.value.parse().ok()),
            host: text("BURN_DIST_HOST_ID").unwrap_or_else(host),
            flights: path("BURN_DIST_FLIGHT_DIR"),
            error_file: path("TORCHELASTIC_ERROR_FILE"),
            ready_file: path("BURN_DIST_READY_FILE"),
            port_reserved: env.variable("BURN_DIST_PORT_RESERVED").is_some(),
            more_ports: if beside_agent { PORTS_AFTER_AGENT } else { 0 },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Settings> {
        let lookup = |name: &str| {
            let found = set.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(Environment::new(&lookup))
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.heartbeat, Duration::from_secs(10));
        assert_eq!((settings.attempt, settings.deadline), (0, None));
        assert_eq!(settings.transport, None);
        assert_eq!(settings.secret_length, None);
    }

    #[test]
    fn what_is_said_counts() {
        let settings = read(&[
            ("BURN_DIST_HEARTBEAT", "0.5"),
            ("BURN_DIST_TIMEOUT", "30"),
            ("BURN_DIST_TRANSPORT", "tcp"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("BURN_DIST_FLIGHT_DIR", " "),
            ("BURN_DIST_SECRET", "a long text"),
            ("SLURM_JOB_ID", "77"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.heartbeat, Duration::from_millis(500));
        assert_eq!(settings.deadline, Some(Duration::from_secs(30)));
        assert_eq!(settings.transport, Some(Transport::Tcp));
        assert_eq!((settings.attempt, settings.flights), (2, None));
        assert_eq!(settings.secret_length, Some(11));
        assert_eq!(settings.restarts, 2);
    }

    #[test]
    fn a_jobs_number_keeps_jobs_apart_but_is_no_secret() {
        let settings = read(&[("SLURM_JOB_ID", "77")]).unwrap();
        assert_eq!(format!("{:?}", settings.secret), "Secret(..)");
        assert_eq!(settings.secret_length, None);
    }

    #[test]
    fn a_requeued_job_counts_as_started_again() {
        let settings = read(&[("SLURM_RESTART_COUNT", "1")]).unwrap();
        assert_eq!((settings.attempt, settings.restarts), (0, 1));
        let both = [
            ("SLURM_RESTART_COUNT", "1"),
            ("BURN_DIST_RESTART_COUNT", "2"),
        ];
        let settings = read(&both).unwrap();
        assert_eq!((settings.attempt, settings.restarts), (2, 3));
    }

    #[test]
    fn nonsense_is_named() {
        for (name, value) in [
            ("BURN_DIST_HEARTBEAT", "soon"),
            ("BURN_DIST_HEARTBEAT", "0"),
            ("BURN_DIST_TIMEOUT", "inf"),
            ("BURN_DIST_JOIN_TIMEOUT", "-1"),
            ("BURN_DIST_RESTART_COUNT", "1.5"),
            ("SLURM_RESTART_COUNT", "once"),
            ("BURN_DIST_INITIAL_WORLD_SIZE", "0"),
            ("BURN_DIST_TRANSPORT", "pigeon"),
            ("BURN_DIST_LINK", "1gbit"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
