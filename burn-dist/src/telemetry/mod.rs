//! Measurements of a program's time and memory.
//!
//! Numbers come from counters in the program itself, so that a claim about speed or memory can be
//! repeated by whoever reads it.

mod memory;
mod phases;

pub use crate::trace::{TraceEvent, TraceKind, TraceSpan, Tracer};
pub use memory::{Tracked, live_bytes, peak_bytes, reset_peak};
pub use phases::{Phase, Phases};
