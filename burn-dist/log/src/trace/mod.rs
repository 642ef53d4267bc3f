//! Traces of some steps, of all ranks on one clock: as trace-event JSON and as a picture.

mod clock;
mod json;
mod picture;
mod recording;

pub(crate) use recording::Recording;

use burn_dist::telemetry::TraceEvent;

/// The spans of one rank, on rank 0's clock.
#[derive(Debug, Clone)]
pub(crate) struct RankTrace {
    pub(crate) rank: usize,
    pub(crate) host: String,
    pub(crate) events: Vec<TraceEvent>,
}
