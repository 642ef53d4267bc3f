//! `utilisation.csv`: what every process samples, brought to rank 0 every few seconds.

use crate::lines::Lines;
use crate::{Sample, Sampler};
use burn_dist::{Error, Result, World};
use std::path::Path;
use std::time::Duration;

/// How often is sampled.
const PERIOD: Duration = Duration::from_secs(1);
/// Seconds of training between two gathers.
const GATHER_EVERY: f64 = 5.0;

/// One rank's part in it.
#[derive(Debug)]
pub(crate) struct UtilisationLog {
    /// Of a process the first rank samples.
    sampler: Option<Sampler>,
    /// The host of each rank.
    hosts: Vec<String>,
    /// Seconds of training since the last gather, the same on all ranks.
    since: f64,
    /// On rank 0.
    lines: Option<Lines>,
}

impl UtilisationLog {
    /// Begins to sample. `folder` is that of the run, on rank 0.
    pub(crate) fn start(world: &World, folder: Option<&Path>, hosts: Vec<String>) -> Result<Self> {
        let is_first_of_process = world.ranks_here() == 1 || world.is_chief();
        // GPUs are the host's, whose first rank samples them.
        let start = if world.local_rank() == 0 {
            Sampler::start
        } else {
            Sampler::without_gpus
        };
        let refused = |e| Error::config("sampling of the utilisation", "a system that tells it", e);
        let sampler = is_first_of_process.then(|| start(PERIOD).map_err(refused));
        let file = folder.map(|folder| folder.join("utilisation.csv"));
        Ok(Self {
            sampler: sampler.transpose()?,
            hosts,
            since: 0.0,
            lines: file
                .map(|file| Lines::open(file, Some(Sample::HEADER)))
                .transpose()?,
        })
    }

    /// After a step that took so long, which all ranks have from each other: gathers every few seconds. Collective then.
    pub(crate) fn step(&mut self, world: &World, seconds: f64) -> Result<()> {
        self.since += seconds;
        if self.since < GATHER_EVERY {
            return Ok(());
        }
        self.gather(world)
    }

    /// Brings all samples to rank 0, and writes them there. Collective.
    pub(crate) fn gather(&mut self, world: &World) -> Result<()> {
        self.since = 0.0;
        let mine = self.sampler.as_ref().map_or(Vec::new(), Sampler::take);
        let all = world.gather(&mine)?;
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        for (rank, (samples, host)) in all.iter().zip(&self.hosts).enumerate() {
            for sample in samples {
                let mut text = Vec::new();
                sample.write_csv(&mut text, rank, host)?;
                let text = String::from_utf8_lossy(&text);
                text.lines().try_for_each(|line| lines.push(line))?;
            }
        }
        lines.flush()
    }
}
