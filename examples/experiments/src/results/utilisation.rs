//! The utilisation of a run's processes, once a second.

use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// One line of `utilisation.csv`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Sample {
    /// Seconds since 1970.
    pub time: f64,
    /// The rank.
    pub rank: usize,
    /// Where it runs.
    pub host: String,
    /// Of one core.
    pub cpu_percent: f64,
    /// Of the process.
    pub memory_bytes: f64,
    /// Sent by the host, whose processes report the same.
    pub net_sent_bytes_per_s: Option<f64>,
    /// Received by the host.
    pub net_received_bytes_per_s: Option<f64>,
    /// The number of a GPU of the host; with several, a line is repeated for each.
    pub gpu: Option<usize>,
    /// Of that GPU.
    pub gpu_percent: Option<f64>,
    /// In use on it.
    pub gpu_memory_bytes: Option<f64>,
}

impl Sample {
    /// All samples of a run, none where nothing took them.
    pub(super) fn read(path: &Path) -> Result<Vec<Self>> {
        if !path.exists() {
            return Ok(Vec::new());
        }
        let refused = |e: csv::Error| Error::file(path, "the utilisation of a run", e);
        let mut reader = csv::Reader::from_path(path).map_err(refused)?;
        reader
            .deserialize()
            .map(|row| row.map_err(refused))
            .collect()
    }
}
