//! Spans of the crate `tracing`, for a program's own subscriber.

use super::TraceKind;
use std::time::Duration;
use tracing::Level;
use tracing::span::EnteredSpan;

/// The target of all spans, for filters.
const TARGET: &str = "burn_dist";

/// Whether a subscriber wants spans.
pub(super) fn is_wanted() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// An event for the backward of a unit: where it began is known only when it has ended, which is late for a span.
pub(super) fn unit_backward(unit: &str, took: Duration) {
    let took_us = took.as_micros() as u64;
    tracing::debug!(target: TARGET, unit, took_us, "backward of a unit");
}

/// Enters a span if a subscriber wants it. The name is made at most once, and returned for the tracer.
pub(super) fn enter(
    kind: TraceKind,
    name: impl FnOnce() -> String,
    is_recorded: bool,
) -> (impl FnOnce() -> String, EnteredSpan) {
    let wanted = is_wanted();
    let name = if wanted || is_recorded {
        name()
    } else {
        String::new()
    };
    macro_rules! span {
        ($($kind:ident $text:literal),* $(,)?) => {
            match kind {
                $(TraceKind::$kind => tracing::debug_span!(target: TARGET, $text, unit = %name),)*
            }
        };
    }
    // The metadata of a span are static, so each kind has a place of its own.
    let span = if wanted {
        span!(
            Step "step", Data "data", Forward "forward", Recompute "recompute",
            Backward "backward", Optimizer "optimizer", Wait "wait", Submit "submit",
            Job "communication", Collective "collective", Save "save",
        )
    } else {
        tracing::Span::none()
    };
    let entered = span.entered();
    (move || name, entered)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::Strategy;
    use crate::launch::Threads;
    use crate::shard::unit;
    use burn::nn::LinearConfig;
    use burn::tensor::Tensor;
    use std::fmt::Debug;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    static SEEN: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

    /// A program's own subscriber: keeps the name and the unit of every span.
    struct Keeps(AtomicU64);

    struct Unit(String);

    impl Visit for Unit {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "unit" {
                self.0 = format!("{value:?}");
            }
        }
    }

    impl Subscriber for Keeps {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == super::TARGET
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            let mut unit = Unit(String::new());
            span.record(&mut unit);
            let name = span.metadata().name().to_owned();
            SEEN.lock().unwrap().push((name, unit.0));
            Id::from_u64(1 + self.0.fetch_add(1, Ordering::Relaxed))
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut unit = Unit(String::new());
            event.record(&mut unit);
            SEEN.lock().unwrap().push(("event".into(), unit.0));
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_subscriber_sees_units_collectives_and_waits() {
        tracing::subscriber::set_global_default(Keeps(AtomicU64::new(0))).unwrap();
        Threads::new(2)
            .run(|world| {
                let device = world.device();
                let model = LinearConfig::new(6, 3).init(&device);
                let model = Strategy::fsdp().shard(model, &world)?;
                let x = Tensor::<2>::ones([2, 6], &device);
                let loss = unit(&model, x, |model, x| model.forward(x)).sum();
                // Nobody asked the tracer to record.
                assert!(!world.tracer().is_on());
                world.backward(loss, &model).map(drop)
            })
            .unwrap();
        let seen = SEEN.lock().unwrap();
        for (name, unit) in [
            ("forward", "root"),
            ("event", "\"root\""),
            ("collective", "all_gather of root"),
            ("collective", "reduce_scatter of root"),
            ("wait", ""),
            ("communication", ""),
        ] {
            let found = seen
                .iter()
                .filter(|(n, u)| (n.as_str(), u.as_str()) == (name, unit));
            assert!(found.count() >= 2, "{name} {unit} in {seen:?}");
        }
    }
}
