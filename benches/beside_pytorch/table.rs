//! The table and the picture.

use std::fmt::{self, Write};

/// What was measured of one case; ours first, then PyTorch's.
#[derive(Debug, Clone)]
pub struct Row {
    pub title: String,
    /// Milliseconds of a step: the median of the rounds' medians.
    pub ms: [f64; 2],
    /// The median of the rounds' ratios.
    pub ratio: f64,
    /// Their least and most.
    pub spread: [f64; 2],
    pub goal: Option<f64>,
    /// Bytes of the largest resident set, above that of the program without its model.
    pub peak: [u64; 2],
    /// Minor page faults of a step.
    pub faults: [f64; 2],
}

/// The head of the table.
pub const HEAD: &str = "| | ours, ms | PyTorch, ms | ours / PyTorch | least to most | aim | peak memory, MiB | page faults a step |\n|---|---|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ours, theirs] = self.ms;
        let [least, most] = self.spread;
        let [our_peak, their_peak] = self.peak.map(|bytes| bytes >> 20);
        let goal = self.goal.map_or("".into(), |goal| {
            let missed = if self.ratio > goal { ", missed" } else { "" };
            format!("{goal:.2}{missed}")
        });
        let [our_faults, their_faults] = self.faults;
        write!(
            f,
            "| {} | {ours:.1} | {theirs:.1} | **{:.2}** | {least:.2} to {most:.2} | {goal} | {our_peak} / {their_peak} | {our_faults:.0} / {their_faults:.0} |",
            self.title, self.ratio
        )
    }
}

/// What the table says as a whole; `start` are the seconds to the end of a second step.
/// `rate` is the speed of PyTorch's matrix product, in GFLOP/s.
pub fn summary(rows: &[Row], start: Option<[f64; 2]>, rate: &str) -> String {
    let aimed = rows.iter().filter(|row| row.goal.is_some()).count();
    let met = |row: &&Row| row.goal.is_some_and(|goal| row.ratio <= goal);
    let met = rows.iter().filter(met).count();
    let mut text = String::new();
    if aimed > 0 {
        let _ = write!(text, "{met} of {aimed} aims met.");
    }
    if let Some([ours, theirs]) = start {
        let _ = write!(
            text,
            " From the start of two processes to the end of the second step of BERT-tiny under FSDP: {ours:.2} s, PyTorch's {theirs:.2} s."
        );
    }
    let product = "PyTorch multiplies [2080, 192] x [192, 768]";
    let _ = write!(text, " {product} at {rate} GFLOP/s on one thread.");
    text
}

/// The ratios as bars, with the spread of the rounds and a line at 1.
pub fn picture(rows: &[Row]) -> String {
    const LEFT: f64 = 330.0;
    const UNIT: f64 = 300.0;
    const STEP: usize = 24;
    let (width, height) = (LEFT + 1.4 * UNIT, 60 + STEP * rows.len());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"8\" y=\"20\" font-size=\"14\">Time of a training step over PyTorch's: the less, the faster (median, least to most of {} rounds)</text>\n",
        super::ROUNDS
    );
    for (i, row) in rows.iter().enumerate() {
        let y = 36 + STEP * i;
        let at = |ratio: f64| LEFT + UNIT * ratio.min(1.35);
        let [least, most] = row.spread;
        let colour = if row.ratio <= 1.0 {
            "#2a78b5"
        } else {
            "#c0562b"
        };
        let title = row.title.replace('&', "&amp;").replace('<', "&lt;");
        let middle = y + 8;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{}\" text-anchor=\"end\" font-size=\"11\">{title}</text><rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"16\" fill=\"{colour}\"/><path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#222\" stroke-width=\"1.5\"/><text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
            LEFT - 8.0,
            y + 12,
            UNIT * row.ratio.min(1.35),
            at(least),
            at(most),
            at(most.max(row.ratio)) + 5.0,
            y + 12,
            row.ratio,
        );
    }
    let x = LEFT + UNIT;
    let _ = write!(
        svg,
        "<path d=\"M{x} 30V{}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/><text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">PyTorch</text>\n</svg>\n",
        height - 24,
        height - 10
    );
    svg
}
