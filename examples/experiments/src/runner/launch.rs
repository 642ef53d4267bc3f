//! The runner's own record of a run, beside those that the run writes.

use super::Command;
use crate::matrix::{Device, Experiment};
use crate::{Result, files};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file in the folder of a run.
const FILE: &str = "experiment.json";

/// How a run has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether all its processes have ended with success and its records are complete.
    pub success: bool,
    /// Seconds from its start to its end.
    pub seconds: f64,
    /// Cores that other programs used meanwhile, on the mean, where the system tells it.
    pub others_cores: Option<f64>,
    /// What was wrong, with the end of its output; empty after success.
    pub message: String,
}

/// What was started, where, and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// The experiment.
    pub experiment: Experiment,
    /// Its commands, by node.
    pub commands: Vec<Command>,
    /// Cores of this machine.
    pub cores: usize,
    /// Compute threads of a rank.
    pub threads: usize,
    /// Its end; `None` while it runs, or if this process was killed.
    pub outcome: Option<Outcome>,
}

impl Launch {
    /// Whether its ranks have less than a core for each of their threads: their times then say nothing about more
    /// ranks.
    pub fn shares_cores(&self) -> bool {
        let all = self.experiment.setup.ranks() * self.threads;
        self.experiment.recipe.device == Device::Cpu && all > self.cores
    }

    /// Reads it from the folder of a run; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        files::read_json(&path, "the runner's record of a run").map(Some)
    }

    /// Writes it into the folder of a run.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if that fails.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join(FILE), self)
    }
}
