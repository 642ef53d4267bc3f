//! What a rank does and when: spans of its threads, recorded on request.
//!
//! Recording is off until a program asks for it, and costs a read of one flag per span then. With the feature `tracing` every
//! span is one of the crate `tracing` too, so that a program's own subscriber sees it.

mod event;
mod span;
#[cfg(feature = "tracing")]
mod subscriber;
mod tracer;

pub use event::{TraceEvent, TraceKind};
pub use span::TraceSpan;
pub use tracer::Tracer;
