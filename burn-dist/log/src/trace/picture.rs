//! The last traced step as an SVG: two lanes for each rank, computation and communication.

use super::RankTrace;
use super::json::title;
use burn_dist::telemetry::{TraceEvent, TraceKind};
use std::fmt::Write;

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 64.0;
const LANE: f64 = 26.0;
const BETWEEN_RANKS: f64 = 14.0;

/// Colours that stay apart for colour-blind readers (Okabe and Ito), with their meaning.
const COLOURS: [(&str, &str); 9] = [
    ("forward", "#56b4e9"),
    ("recompute", "#a6d4f2"),
    ("backward", "#0072b2"),
    ("optimizer", "#009e73"),
    ("data", "#f0e442"),
    ("waits for communication", "#d55e00"),
    ("all-gather", "#cc79a7"),
    ("reduction", "#e69f00"),
    ("other communication", "#999999"),
];

/// The picture of the last step of a trace; of all of it if it has no whole step.
pub(super) fn last_step(ranks: &[RankTrace]) -> String {
    let all = || ranks.iter().flat_map(|rank| &rank.events);
    let steps = all().filter(|event| event.kind == TraceKind::Step);
    let last = steps.max_by_key(|event| event.end_us());
    let name = last.map_or(String::from("trace"), title);
    let of_step = |event: &&TraceEvent| event.kind == TraceKind::Step && title(event) == name;
    let start = all().filter(of_step).map(|event| event.start_us).min();
    let end = all().filter(of_step).map(TraceEvent::end_us).max();
    let start = start
        .or_else(|| all().map(|e| e.start_us).min())
        .unwrap_or(0);
    let end = end.or_else(|| all().map(TraceEvent::end_us).max());
    let end = end.unwrap_or(start).max(start + 1);
    Picture { start, end }.draw(&name, ranks)
}

/// The part of a trace that is drawn.
struct Picture {
    start: u64,
    end: u64,
}

impl Picture {
    fn x(&self, at: u64) -> f64 {
        let share = at.saturating_sub(self.start) as f64 / (self.end - self.start) as f64;
        LEFT + share.min(1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn draw(&self, name: &str, ranks: &[RankTrace]) -> String {
        let rank_height = 2.0 * LANE + BETWEEN_RANKS;
        let bottom = TOP + ranks.len() as f64 * rank_height;
        let height = bottom + 34.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
             font-size=\"12\">\n<style>svg{{background:#fff;color:#222}} text{{fill:currentColor}} line{{stroke:#bbb}} \
             @media (prefers-color-scheme: dark){{svg{{background:#161616;color:#ddd}} line{{stroke:#555}}}}</style>\n"
        );
        let took = (self.end - self.start) as f64 / 1e3;
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}: {took:.2} ms</text>",
            escaped(name)
        );
        legend(&mut svg);
        self.axis(&mut svg, bottom);
        for (row, rank) in ranks.iter().enumerate() {
            let top = TOP + row as f64 * rank_height;
            for (lane, text) in ["computes", "communicates"].iter().enumerate() {
                let y = top + (lane as f64 + 0.65) * LANE;
                let _ = writeln!(
                    svg,
                    "<text x=\"10\" y=\"{y}\">rank {} {text}</text>",
                    rank.rank
                );
            }
            self.rank(&mut svg, rank, top);
        }
        svg + "</svg>\n"
    }

    fn axis(&self, svg: &mut String, bottom: f64) {
        let took = (self.end - self.start) as f64;
        let mut tick = 10_f64.powf(took.log10().floor());
        while took / tick < 4.0 {
            tick /= 2.0;
        }
        let mut at = 0.0;
        while at <= took {
            let x = self.x(self.start + at as u64);
            let y = bottom + 20.0;
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/><text x=\"{x:.1}\" y=\"{y}\" \
                 text-anchor=\"middle\">{:.4} ms</text>",
                Short(at / 1e3)
            );
            at += tick;
        }
    }

    fn rank(&self, svg: &mut String, rank: &RankTrace, top: f64) {
        let within = |e: &&TraceEvent| e.end_us() > self.start && e.start_us < self.end;
        let mut events: Vec<_> = rank.events.iter().filter(within).collect();
        // Spans within others are drawn over them.
        events.sort_by_key(|event| (event.start_us, std::cmp::Reverse(event.end_us())));
        for event in events {
            let Some((lane, colour)) = place(event) else {
                continue;
            };
            let (x, end) = (self.x(event.start_us), self.x(event.end_us()));
            let (y, width) = (top + lane * LANE, (end - x).max(0.4));
            let inset = if event.kind == TraceKind::Wait {
                6.0
            } else {
                0.0
            };
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.2}\" y=\"{:.1}\" width=\"{width:.2}\" height=\"{:.1}\" fill=\"{colour}\" stroke=\"#fff\" \
                 stroke-width=\"0.3\"><title>{}, {:.3} ms</title></rect>",
                y + inset,
                LANE - 4.0 - inset,
                escaped(&title(event)),
                event.duration_us as f64 / 1e3
            );
        }
    }
}

/// A number without trailing zeros.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.3}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// The lane of a span and its colour, if it is drawn.
fn place(event: &TraceEvent) -> Option<(f64, &'static str)> {
    let is_computing = !event.thread.ends_with(" comm") && !event.thread.ends_with(" save");
    let what = match event.kind {
        TraceKind::Forward => "forward",
        TraceKind::Recompute => "recompute",
        TraceKind::Backward => "backward",
        TraceKind::Optimizer => "optimizer",
        TraceKind::Data => "data",
        TraceKind::Wait => "waits for communication",
        TraceKind::Collective if event.name.starts_with("all_gather") => "all-gather",
        TraceKind::Collective
            if event.name.starts_with("reduce") || event.name.starts_with("all_reduce") =>
        {
            "reduction"
        }
        TraceKind::Collective => "other communication",
        TraceKind::Step | TraceKind::Submit | TraceKind::Job | TraceKind::Save => return None,
    };
    let lane = match event.kind {
        // A collective of the program's own thread is communication too.
        TraceKind::Collective => 1.0,
        _ if is_computing => 0.0,
        _ => 1.0,
    };
    let colour = COLOURS.iter().find(|(name, _)| *name == what)?;
    Some((lane, colour.1))
}

fn legend(svg: &mut String) {
    let mut x = LEFT;
    for (name, colour) in COLOURS {
        let text = x + 16.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"32\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{text}\" y=\"42\">{name}</text>"
        );
        x += 30.0 + 6.6 * name.len() as f64;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_alone_is_drawn() {
        let event = |kind, name: &str, start_us| TraceEvent {
            kind,
            name: name.into(),
            thread: "rank 0".into(),
            start_us,
            duration_us: 100,
            job: None,
        };
        let events = vec![
            event(TraceKind::Forward, "first", 1000),
            event(TraceKind::Step, "step 4", 1000),
            event(TraceKind::Forward, "a<b", 2000),
            event(TraceKind::Step, "step 5", 2000),
        ];
        let host = String::from("here");
        let svg = last_step(&[RankTrace {
            rank: 0,
            host,
            events,
        }]);
        assert!(svg.contains("step 5: 0.10 ms"), "{svg}");
        assert!(
            svg.contains("forward a&lt;b") && !svg.contains("first"),
            "{svg}"
        );
        assert!(last_step(&[]).ends_with("</svg>\n"));
    }
}
