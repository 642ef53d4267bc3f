//! The picture of all cases: a bar for each, divided as its step is.

use crate::case::Case;
use burn_dist_log::{StepTimes, Summary};
use std::fmt::Write;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 74.0;
const ROW: f64 = 26.0;
const GAP: f64 = 18.0;

/// The seconds of a part of a step.
type Of = fn(&StepTimes) -> f64;

/// Colours that stay apart for colour-blind readers (Okabe and Ito), and what they are for.
const PARTS: [(&str, &str, Of); 4] = [
    ("forward", "#56b4e9", |s| s.forward.mean),
    ("backward", "#0072b2", |s| s.backward.mean),
    ("exposed communication", "#d55e00", |s| s.exposed.mean),
    ("optimizer", "#009e73", |s| s.optimizer.mean),
];

/// Milliseconds a sample of one rank, so that steps of one and of four passes compare.
fn per_sample(case: &Case, seconds: f64) -> f64 {
    1e3 * seconds / (case.accumulate * crate::BATCH) as f64
}

/// The bars, grouped by the number of ranks.
pub fn picture(measured: &[(Case, usize, Summary)]) -> String {
    let total = |(case, _, summary): &(Case, usize, Summary)| {
        PARTS
            .iter()
            .map(|(.., of)| per_sample(case, of(&summary.seconds)))
            .sum::<f64>()
    };
    let most = measured.iter().map(total).fold(0.0, f64::max).max(1e-9);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let changes = measured
        .windows(2)
        .filter(|pair| pair[0].1 != pair[1].1)
        .count();
    let height = TOP + ROW * measured.len() as f64 + GAP * changes as f64 + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\">\n<style>svg{{background:#fff;color:#222}} text{{fill:currentColor}} @media \
         (prefers-color-scheme: dark){{svg{{background:#161616;color:#ddd}}}}</style>\n<text x=\"10\" y=\"24\" \
         font-size=\"16\">Milliseconds of a step per sample of a rank: ViT, 2.7 M parameters</text>\n"
    );
    let mut x = LEFT;
    for (name, colour, _) in PARTS {
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"42\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"53\">{name}</text>",
            x + 17.0
        );
        x += 40.0 + 7.2 * name.len() as f64;
    }
    let (mut y, mut before) = (TOP, None);
    for entry @ (case, ranks, summary) in measured {
        if before.is_some_and(|before| before != ranks) {
            y += GAP;
        }
        before = Some(ranks);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{ranks}: {case}</text>",
            LEFT - 8.0,
            y + 15.0
        );
        let mut x = LEFT;
        for (name, colour, of) in PARTS {
            let ms = per_sample(case, of(&summary.seconds));
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"><title>{name}: {ms:.3} \
                 ms</title></rect>",
                ms * scale,
                ROW - 6.0
            );
            x += ms * scale;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\">{:.2} ms, {:.0}/s</text>",
            x + 6.0,
            y + 15.0,
            total(entry),
            summary.samples_per_s
        );
        y += ROW;
    }
    svg + "</svg>\n"
}
