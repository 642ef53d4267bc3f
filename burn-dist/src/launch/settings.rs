//! What the environment says about a process's world, beside who the process is.

use crate::comm::mesh::{Transport, host};
use crate::error::{Error, Result};
use crate::rendezvous::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// How one process works together with the others.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) secret: Secret,
    pub(super) attempt: usize,
    pub(super) heartbeat: Duration,
    /// How long a collective may wait, where the environment says so.
    pub(super) deadline: Option<Duration>,
    /// How long to wait for the other ranks to come.
    pub(super) patience: Duration,
    pub(super) transport: Option<Transport>,
    /// Processes with equal hosts may share memory.
    pub(super) host: String,
    /// Where a failed rank writes its flight record.
    pub(super) flights: Option<PathBuf>,
    /// Where a failed rank writes why.
    pub(super) error_file: Option<PathBuf>,
    pub(super) port_reserved: bool,
    /// Ports from the master's on that rank 0 may take instead.
    pub(super) more_ports: u16,
}

/// No wait is longer.
const YEAR: f64 = 365.0 * 24.0 * 3600.0;
/// torchrun's agent has the master's port, and nobody holds the next one for us.
const BESIDE_AGENT: u16 = 15;

impl Settings {
    /// Reads the variables; see the table in [`launch`](super).
    ///
    /// # Errors
    /// [`Error::Config`] names the variable that makes no sense.
    pub(super) fn read(env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let given = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let seconds = |name: &str| match given(name) {
            None => Ok(None),
            Some(text) => text
                .trim()
                .parse()
                .ok()
                .filter(|s| (0.01..=YEAR).contains(s))
                .and_then(|s| Duration::try_from_secs_f64(s).ok())
                .map(Some)
                .ok_or_else(|| Error::config(name, "a number of seconds, at least 0.01", text)),
        };
        let count = |name: &str| match given(name) {
            None => Ok(None),
            Some(text) => text
                .trim()
                .parse::<usize>()
                .map(Some)
                .map_err(|_| Error::config(name, "a whole number", text)),
        };
        // Weak, but it keeps two jobs apart whose ports have been mixed up.
        let torch = || Some(given("TORCHELASTIC_RUN_ID")? + "/" + &given("MASTER_PORT")?);
        let jobs = ["SLURM_JOB_ID", "PMIX_NAMESPACE", "PMI_JOBID", "MPIRUN_ID"];
        let job = || torch().or_else(|| jobs.into_iter().find_map(given));
        let agent = given("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        let beside_agent = agent && given("BURN_DIST_MASTER_PORT").is_none();
        let secret = given("BURN_DIST_SECRET").or_else(job).unwrap_or_default();
        let attempt = match count("BURN_DIST_RESTART_COUNT")? {
            None => count("TORCHELASTIC_RESTART_COUNT")?,
            some => some,
        };
        let transport = given("BURN_DIST_TRANSPORT")
            .map(|text| {
                text.parse()
                    .map_err(|_| Error::config("BURN_DIST_TRANSPORT", "auto, tcp or shm", text))
            })
            .transpose()?;
        Ok(Self {
            secret: Secret::new(&secret),
            attempt: attempt.unwrap_or(0),
            heartbeat: seconds("BURN_DIST_HEARTBEAT")?.unwrap_or(Duration::from_secs(10)),
            deadline: seconds("BURN_DIST_TIMEOUT")?,
            patience: seconds("BURN_DIST_JOIN_TIMEOUT")?.unwrap_or(Duration::from_secs(300)),
            transport,
            host: given("BURN_DIST_HOST_ID").unwrap_or_else(host),
            flights: given("BURN_DIST_FLIGHT_DIR").map(PathBuf::from),
            error_file: given("TORCHELASTIC_ERROR_FILE").map(PathBuf::from),
            port_reserved: given("BURN_DIST_PORT_RESERVED").is_some(),
            more_ports: if beside_agent { BESIDE_AGENT } else { 0 },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|name| {
            let found = set.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.heartbeat, Duration::from_secs(10));
        assert_eq!((settings.attempt, settings.deadline), (0, None));
        assert_eq!(settings.transport, None);
    }

    #[test]
    fn what_is_said_counts() {
        let settings = read(&[
            ("BURN_DIST_HEARTBEAT", "0.5"),
            ("BURN_DIST_TIMEOUT", "30"),
            ("BURN_DIST_TRANSPORT", "tcp"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("BURN_DIST_FLIGHT_DIR", " "),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.heartbeat, Duration::from_millis(500));
        assert_eq!(settings.deadline, Some(Duration::from_secs(30)));
        assert_eq!(settings.transport, Some(Transport::Tcp));
        assert_eq!((settings.attempt, settings.flights), (2, None));
    }

    #[test]
    fn nonsense_is_named() {
        for (name, value) in [
            ("BURN_DIST_HEARTBEAT", "soon"),
            ("BURN_DIST_HEARTBEAT", "0"),
            ("BURN_DIST_TIMEOUT", "inf"),
            ("BURN_DIST_JOIN_TIMEOUT", "-1"),
            ("BURN_DIST_RESTART_COUNT", "1.5"),
            ("BURN_DIST_TRANSPORT", "pigeon"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
