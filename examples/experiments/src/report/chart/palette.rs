//! The colours of charts.
//!
//! Those of paper, text and grid are exchanged by the page's style sheet where it is dark; the others are read on both.

use plotters::style::RGBColor;

/// Behind a chart.
pub(super) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
/// Text.
pub(super) const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
/// Text of less weight, and axes.
pub(super) const MUTED: RGBColor = RGBColor(0x65, 0x6d, 0x76);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(0xe1, 0xe4, 0xe8);

/// The colours that a page exchanges, as they stand in a chart, and the names it gives them.
pub(crate) const STRUCTURE: [(&str, &str); 4] = [
    ("#FFFFFF", "--paper"),
    ("#1F2328", "--ink"),
    ("#656D76", "--muted"),
    ("#E1E4E8", "--grid"),
];

/// Waiting for data.
pub(crate) const DATA: RGBColor = RGBColor(0x9c, 0x6b, 0x4e);
/// Forward.
pub(crate) const FORWARD: RGBColor = RGBColor(0x42, 0x69, 0xd0);
/// Backward.
pub(crate) const BACKWARD: RGBColor = RGBColor(0x8a, 0xae, 0xf0);
/// The optimizer.
pub(crate) const OPTIMIZER: RGBColor = RGBColor(0x4f, 0xb3, 0x9c);
/// Communication that is waited for.
pub(crate) const EXPOSED: RGBColor = RGBColor(0xf2, 0x5f, 0x4c);
/// Communication behind computation.
pub(crate) const HIDDEN: RGBColor = RGBColor(0xef, 0xb1, 0x18);
/// What is left of a step.
pub(crate) const OTHER: RGBColor = RGBColor(0x9a, 0xa0, 0xa6);
/// The colour of the series with this number.
pub(crate) fn series(number: usize) -> RGBColor {
    const ALL: [RGBColor; 8] = [
        FORWARD,
        EXPOSED,
        OPTIMIZER,
        HIDDEN,
        RGBColor(0xa4, 0x63, 0xf2),
        DATA,
        RGBColor(0x3c, 0xa9, 0x51),
        RGBColor(0xe3, 0x77, 0xc2),
    ];
    ALL[number % ALL.len()]
}
