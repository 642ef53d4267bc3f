//! One span of a trace.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a thread of a rank does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceKind {
    /// A step of training.
    Step,
    /// Waiting for the next batch.
    Data,
    /// A forward pass; of a unit, or of the whole model.
    Forward,
    /// A forward that runs a second time, for backward.
    Recompute,
    /// A backward pass; of a unit, or of the whole model.
    Backward,
    /// Clipping and the optimizer's step.
    Optimizer,
    /// Computation waits for communication.
    Wait,
    /// Something is handed to the communication thread, which a job does later.
    Submit,
    /// The communication thread does something: packing, and collectives.
    Job,
    /// A collective, waiting for the other ranks included.
    Collective,
    /// A save is written.
    Save,
}

impl TraceKind {
    /// The name of a span of this kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Data => "data",
            Self::Forward => "forward",
            Self::Recompute => "recompute",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
            Self::Wait => "wait",
            Self::Submit => "submit",
            Self::Job => "communication",
            Self::Collective => "collective",
            Self::Save => "save",
        }
    }
}

impl fmt::Display for TraceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A span of time in which a thread of a rank did one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// What it did.
    pub kind: TraceKind,
    /// For what: the unit, or the collective and its unit; empty where there is nothing to name.
    pub name: String,
    /// The name of the thread.
    pub thread: String,
    /// Microseconds since 1970, by the clock of its host.
    pub start_us: u64,
    /// Microseconds.
    pub duration_us: u64,
    /// The number that a submission and its job have in common.
    pub job: Option<u64>,
}

impl TraceEvent {
    /// Microseconds since 1970 at its end.
    pub fn end_us(&self) -> u64 {
        self.start_us + self.duration_us
    }
}
