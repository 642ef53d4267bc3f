//! The messages between launchers.

use super::plan::Plan;
use crate::error::Error;
use serde::{Deserialize, Serialize};

/// Changes whenever launchers of two builds could misunderstand each other.
pub(crate) const PROTOCOL: u32 = 1;

/// The first message of a launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) version: String,
    /// A random number, for which the service proves the secret.
    pub(crate) nonce: String,
    pub(crate) node: usize,
    /// The range of hosts that it was started with.
    pub(crate) nodes: (usize, usize),
    pub(crate) host: String,
    /// The service that it belonged to before its connection broke.
    pub(crate) run: Option<String>,
}

/// Everything that goes over a connection, in both directions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Launcher to service: who calls.
    Hello(Hello),
    /// Service to launcher: a nonce, and proof of the secret for the launcher's.
    Challenge { nonce: String, proof: String },
    /// Launcher to service: proof of the secret for the service's nonce.
    Proof(String),
    /// Service to launcher: it belongs to this run.
    Welcome(String),
    /// Service to launcher: it does not, and whether to try again.
    Refused { problem: String, again: bool },
    /// A sign of life.
    Beat,
    /// Launcher to service: the state of its ranks.
    Report(Report),
    /// Service to launcher: what to do next.
    Verdict(Verdict),
}

/// What a launcher says when its ranks are not running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// How its ranks have ended; `None` if it has started none yet.
    pub(crate) succeeded: Option<bool>,
    /// The ranks that it can start.
    pub(crate) ranks: usize,
    /// With fewer it takes no part.
    pub(crate) least: usize,
    /// Those that it has given up since its last report, and why.
    pub(crate) lost: Vec<String>,
}

/// What the service has decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// Ranks of another host have failed: end those of this one, and report.
    End,
    /// Start the ranks of this host.
    Start(Start),
    /// All ranks of all hosts have ended well.
    Finished,
    /// There is no further start, for this reason; without one because all restarts are used up.
    Over(Option<Error>),
}

/// A start, and where its ranks meet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) plan: Plan,
    /// Where rank 0 listens.
    pub(crate) port: u16,
}
