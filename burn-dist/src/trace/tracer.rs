//! One rank's recorder of spans.

use super::{TraceEvent, TraceKind};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Spans that are kept at most: a forgotten recording must not fill the memory.
const CAPACITY: usize = 1 << 20;

/// Records what the threads of one rank do; clones share the record.
///
/// ```
/// use burn_dist::prelude::*;
/// use burn_dist::telemetry::{Phase, Phases};
///
/// let events = Threads::new(2).run(|world| {
///     world.tracer().start();
///     let mut phases = Phases::new(&world);
///     phases.time(Phase::Data, || world.sum(1.0))?;
///     Ok(world.tracer().stop())
/// })?;
/// let kinds: Vec<_> = events[0].iter().map(|event| event.kind.name()).collect();
/// assert_eq!(kinds, ["collective", "data"]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Cost
/// Off, a span costs the read of a flag; on, about 100 bytes and a microsecond. At most 1 048 576 are kept.
///
/// # Source
/// PyTorch: `torch.profiler`.
#[derive(Debug, Clone, Default)]
pub struct Tracer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    is_on: AtomicBool,
    /// Submitted jobs so far.
    jobs: AtomicU64,
    record: Mutex<Record>,
    /// The same moment on the clock that never jumps, and since 1970.
    origin: (Instant, Duration),
}

#[derive(Debug, Default)]
struct Record {
    events: Vec<TraceEvent>,
    /// When the backward of the last unit ended, or all of it began.
    backward: Option<Instant>,
}

impl Default for Inner {
    fn default() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            is_on: AtomicBool::new(false),
            jobs: AtomicU64::new(0),
            record: Mutex::default(),
            origin: (Instant::now(), since_1970.unwrap_or_default()),
        }
    }
}

impl Tracer {
    /// Starts to record, and forgets what was recorded before.
    pub fn start(&self) {
        *self.record() = Record::default();
        self.inner.is_on.store(true, Ordering::Relaxed);
    }

    /// Ends the recording, and returns the spans that have ended since it started, in the order of their ends.
    pub fn stop(&self) -> Vec<TraceEvent> {
        self.inner.is_on.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.record().events)
    }

    /// Whether spans are recorded.
    pub fn is_on(&self) -> bool {
        self.inner.is_on.load(Ordering::Relaxed)
    }

    /// Microseconds since 1970 on the clock of the recorded spans.
    pub fn now_us(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Records a span of this thread that began then and ends now.
    pub fn record_since(&self, kind: TraceKind, name: impl FnOnce() -> String, start: Instant) {
        if self.is_on() {
            self.push(kind, name(), start..Instant::now(), None);
        }
    }

    /// Notes that a backward pass begins: the first unit's part of it does too.
    pub(crate) fn begin_backward(&self) {
        if self.is_on() || is_subscribed() {
            self.record().backward = Some(Instant::now());
        }
    }

    /// Notes that backward has gone through a unit, which has taken it since it had gone through the one before.
    pub(crate) fn end_unit_backward(&self, name: impl FnOnce() -> String) {
        if !self.is_on() && !is_subscribed() {
            return;
        }
        let now = Instant::now();
        let start = self.record().backward.replace(now);
        let Some(start) = start else {
            return;
        };
        let name = name();
        #[cfg(feature = "tracing")]
        super::subscriber::unit_backward(&name, now - start);
        if self.is_on() {
            self.push(TraceKind::Backward, name, start..now, None);
        }
    }

    /// Records that something is handed to the communication thread; returns its number.
    pub(crate) fn submit(&self) -> Option<u64> {
        if !self.is_on() {
            return None;
        }
        let job = self.inner.jobs.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        self.push(TraceKind::Submit, String::new(), now..now, Some(job));
        Some(job)
    }

    pub(super) fn push(
        &self,
        kind: TraceKind,
        name: String,
        time: Range<Instant>,
        job: Option<u64>,
    ) {
        let start_us = self.at(time.start);
        let event = TraceEvent {
            kind,
            name,
            thread: std::thread::current().name().unwrap_or("").to_owned(),
            start_us,
            duration_us: self.at(time.end) - start_us,
            job,
        };
        let mut record = self.record();
        if record.events.len() < CAPACITY {
            record.events.push(event);
        }
    }

    fn at(&self, instant: Instant) -> u64 {
        let (origin, since_1970) = self.inner.origin;
        micros(since_1970 + instant.saturating_duration_since(origin))
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        let record = &self.inner.record;
        record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a subscriber of the crate `tracing` wants spans.
fn is_subscribed() -> bool {
    #[cfg(feature = "tracing")]
    return super::subscriber::is_wanted();
    #[cfg(not(feature = "tracing"))]
    false
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_recorded_only_while_it_is_on() {
        // Another test of this process subscribes to the spans of all threads, which asks for every name.
        #[cfg(feature = "tracing")]
        let _unsubscribed =
            tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
        let tracer = Tracer::default();
        let named = || String::from("a");
        drop(tracer.span(TraceKind::Wait, || unreachable!()));
        tracer.start();
        {
            let _outer = tracer.span(TraceKind::Forward, named);
            let _inner = tracer.span(TraceKind::Wait, String::new);
        }
        tracer.begin_backward();
        tracer.end_unit_backward(named);
        tracer.end_unit_backward(|| "b".into());
        let events = tracer.stop();
        let kinds: Vec<_> = events.iter().map(|e| (e.kind.name(), &*e.name)).collect();
        let expected = [
            ("wait", ""),
            ("forward", "a"),
            ("backward", "a"),
            ("backward", "b"),
        ];
        assert_eq!(kinds, expected);
        // The inner span lies within the outer one, and one unit's backward begins where the other's ends.
        assert!(events[0].start_us >= events[1].start_us);
        assert!(events[0].end_us() <= events[1].end_us() + 1);
        assert!(events[3].start_us + 1 >= events[2].end_us());
        drop(tracer.span(TraceKind::Wait, || unreachable!()));
        assert!(tracer.stop().is_empty());
    }
}
