//! Spans of the crate `tracing`, for a program's own subscriber.

use super::TraceKind;
use tracing::Level;
use tracing::span::EnteredSpan;

/// The target of all spans, for filters.
const TARGET: &str = "burn_dist";

/// Enters a span if a subscriber wants it. The name is made at most once, and returned for the tracer.
pub(super) fn enter(
    kind: TraceKind,
    name: impl FnOnce() -> String,
    is_recorded: bool,
) -> (impl FnOnce() -> String, EnteredSpan) {
    let wanted = tracing::enabled!(target: TARGET, Level::DEBUG);
    let name = (wanted || is_recorded).then(name).unwrap_or_default();
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
