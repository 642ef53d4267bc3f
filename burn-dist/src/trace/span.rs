//! A span that is going on.

use super::{TraceKind, Tracer};
use std::time::Instant;

/// A span of a thread, which ends when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct TraceSpan {
    recorded: Option<Recorded>,
    #[cfg(feature = "tracing")]
    _entered: tracing::span::EnteredSpan,
}

#[derive(Debug)]
struct Recorded {
    tracer: Tracer,
    kind: TraceKind,
    name: String,
    start: Instant,
    job: Option<u64>,
}

impl TraceSpan {
    pub(super) fn begin(tracer: &Tracer, kind: TraceKind, name: impl FnOnce() -> String) -> Self {
        Self::of_job(tracer, kind, name, None)
    }

    /// The span of a job that was submitted under a number.
    pub(crate) fn of_job(
        tracer: &Tracer,
        kind: TraceKind,
        name: impl FnOnce() -> String,
        job: Option<u64>,
    ) -> Self {
        #[cfg(feature = "tracing")]
        let (name, entered) = super::subscriber::enter(kind, name, tracer.is_on());
        let recorded = tracer.is_on().then(|| Recorded {
            tracer: tracer.clone(),
            kind,
            name: name(),
            start: Instant::now(),
            job,
        });
        Self {
            recorded,
            #[cfg(feature = "tracing")]
            _entered: entered,
        }
    }
}

impl Drop for TraceSpan {
    fn drop(&mut self) {
        if let Some(Recorded {
            tracer,
            kind,
            name,
            start,
            job,
        }) = self.recorded.take()
        {
            tracer.push(kind, name, start..Instant::now(), job);
        }
    }
}

impl Tracer {
    /// A span of this thread, from now until it is dropped; `name` is called only if it is recorded.
    pub fn span(&self, kind: TraceKind, name: impl FnOnce() -> String) -> TraceSpan {
        TraceSpan::begin(self, kind, name)
    }
}
