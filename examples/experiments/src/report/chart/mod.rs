//! Charts as SVG: bars, grouped bars and lines.

mod bars;
mod canvas;
mod grouped;
mod lines;
mod palette;

pub(super) use bars::{Bar, Bars, Key};
pub(super) use grouped::{Group, Grouped};
pub(super) use lines::{Line, Lines};
pub(super) use palette::{
    BACKWARD, DATA, EXPOSED, FORWARD, HIDDEN, OPTIMIZER, OTHER, STRUCTURE, series,
};
