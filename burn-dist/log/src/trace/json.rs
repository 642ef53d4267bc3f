//! Spans in the trace-event format, which Perfetto and chrome://tracing open.

use super::RankTrace;
use burn_dist::telemetry::{TraceEvent, TraceKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The spans of all ranks: a process per rank, a track per thread, and an arrow from each submission to its job. Times are in
/// microseconds from the first span.
///
/// # Source
/// The trace-event format of Chromium's catapult, which Perfetto documents as JSON trace format.
pub(super) fn trace_events(ranks: &[RankTrace]) -> Value {
    let starts = ranks.iter().flat_map(|rank| &rank.events);
    let origin = starts.map(|event| event.start_us).min().unwrap_or(0);
    let events = ranks.iter().flat_map(|rank| of_rank(rank, origin));
    json!({
        "traceEvents": events.collect::<Vec<_>>(),
        "displayTimeUnit": "ms",
    })
}

fn of_rank(rank: &RankTrace, origin: u64) -> Vec<Value> {
    let pid = rank.rank;
    let mut threads: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &rank.events {
        let number = threads.len();
        threads.entry(&event.thread).or_insert(number);
    }
    let name = format!("rank {pid} on {}", rank.host);
    let mut all = vec![
        json!({ "ph": "M", "name": "process_name", "pid": pid, "args": { "name": name } }),
        json!({ "ph": "M", "name": "process_sort_index", "pid": pid, "args": { "sort_index": pid } }),
    ];
    for (thread, tid) in &threads {
        let args = json!({ "name": thread });
        all.push(json!({ "ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": args }));
    }
    for event in &rank.events {
        let tid = threads.get(&*event.thread).copied().unwrap_or(0);
        let at = event.start_us - origin;
        if event.kind == TraceKind::Submit {
            all.push(json!({
                "ph": "i", "s": "t", "name": event.kind.name(), "cat": event.kind.name(), "ts": at, "pid": pid, "tid": tid,
            }));
        } else {
            all.push(json!({
                "ph": "X", "name": title(event), "cat": event.kind.name(), "ts": at, "dur": event.duration_us, "pid": pid, "tid": tid,
            }));
        }
        let flow = match event.kind {
            TraceKind::Submit => Some("s"),
            TraceKind::Job => Some("f"),
            _ => None,
        };
        if let Some((flow, job)) = flow.zip(event.job) {
            // An arrow has a number of its own in the whole trace.
            let id = format!("{pid}.{job}");
            all.push(json!({
                "ph": flow, "bp": "e", "name": "submitted", "cat": "submitted", "id": id, "ts": at, "pid": pid, "tid": tid,
            }));
        }
    }
    all
}

/// What a span is called: what it is for, and what it is where that does not say it.
pub(super) fn title(event: &TraceEvent) -> String {
    match (event.kind, event.name.as_str()) {
        (kind, "") => kind.name().into(),
        (TraceKind::Collective | TraceKind::Step, name) => name.into(),
        (kind, name) => format!("{} {name}", kind.name()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(kind: TraceKind, thread: &str, start_us: u64, job: Option<u64>) -> TraceEvent {
        TraceEvent {
            kind,
            name: "blocks.0".into(),
            thread: thread.into(),
            start_us,
            duration_us: 5,
            job,
        }
    }

    #[test]
    fn every_span_has_its_rank_its_thread_and_its_time() {
        let rank = |rank, at| RankTrace {
            rank,
            host: "here".into(),
            events: vec![
                event(TraceKind::Submit, "main", at, Some(3)),
                event(TraceKind::Job, "comm", at + 2, Some(3)),
                event(TraceKind::Forward, "main", at + 4, None),
            ],
        };
        let trace = trace_events(&[rank(0, 1000), rank(1, 1001)]);
        let all = trace["traceEvents"].as_array().unwrap();
        let of = |phase: &str| all.iter().filter(|e| e["ph"] == phase).collect::<Vec<_>>();
        assert_eq!((of("X").len(), of("i").len(), of("M").len()), (4, 2, 8));
        assert_eq!(of("X")[1]["name"], "forward blocks.0");
        assert_eq!(
            (&of("X")[2]["ts"], &of("X")[2]["dur"]),
            (&json!(3), &json!(5))
        );
        // The arrow begins at the submission, ends at the job, and is not the other rank's.
        let (from, to) = (of("s"), of("f"));
        assert_eq!(
            (&from[1]["id"], &to[1]["id"]),
            (&json!("1.3"), &json!("1.3"))
        );
        assert_ne!(from[0]["tid"], to[0]["tid"]);
    }
}
