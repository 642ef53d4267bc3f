//! Bytes that a rank holds.

use burn_dist::telemetry::{live_bytes, peak_bytes, reset_peak};
use burn_dist::{Result, World};

/// Measures the bytes of a rank since it was made.
///
/// On a CPU they are those of the process's allocator, if it is [`Tracked`](burn_dist::telemetry::Tracked), divided among the ranks of
/// the process; on a GPU those of its memory pool, which all ranks on that GPU share.
#[derive(Debug, Clone)]
pub struct MemoryMeter {
    world: World,
    /// Bytes that the process held before.
    before: usize,
}

impl MemoryMeter {
    /// Begins to measure. Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn new(world: &World) -> Result<Self> {
        let start = "memory".into();
        // Ranks may share a process, so the counter is set when none of them has begun.
        world.comm().barrier(&start)?;
        let before = reset_peak();
        world.comm().barrier(&start)?;
        Ok(Self {
            world: world.clone(),
            before,
        })
    }

    /// Bytes that a rank holds now, and the most that it has held; 0 where nothing counts them.
    pub fn bytes(&self) -> (f64, f64) {
        // A GPU's allocator hardly frees memory, so what it has reserved is the peak.
        if let Some(usage) = self.world.device().memory_pool_usage() {
            return (usage.bytes_in_use as f64, usage.bytes_reserved as f64);
        }
        let ranks = self.world.ranks_here() as f64;
        let per_rank = |bytes: usize| bytes.saturating_sub(self.before) as f64 / ranks;
        (per_rank(live_bytes()), per_rank(peak_bytes()))
    }

    /// What a rank holds while all of them wait. Call it where no batch and no gradient is left. Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn at_rest(&self) -> Result<f64> {
        let here = "memory".into();
        self.world.comm().barrier(&here)?;
        let held = self.bytes().0;
        self.world.comm().barrier(&here)?;
        Ok(held)
    }
}
