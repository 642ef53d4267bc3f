//! Lines: values over steps, epochs or time.

use super::canvas::{self, Anchor, Drawn, Sheet, axis_title, label, legend_height, ticks, write};
use super::palette::{GRID, INK, MUTED};
use crate::Result;
use plotters::prelude::*;

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) color: RGBColor,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart of lines.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
    /// What goes to the right.
    pub(crate) x: String,
    /// What goes up.
    pub(crate) y: String,
    /// Whether the axis begins at 0.
    pub(crate) from_zero: bool,
}

const WIDTH: i32 = 480;
const HEIGHT: i32 = 230;
const LEFT: i32 = 52;
const RIGHT: i32 = WIDTH - 14;

/// Of more points than this the mean of neighbours is drawn.
const MOST_POINTS: usize = 240;

/// Few points are marked, so that a single one is seen.
const MARKED: usize = 12;

impl Lines {
    /// Draws them.
    pub(crate) fn draw(&self, name: &str) -> Result<String> {
        let entries: Vec<_> = self
            .lines
            .iter()
            .map(|l| (l.name.as_str(), l.color))
            .collect();
        let head = 24;
        let legend = legend_height(&entries, LEFT, WIDTH);
        let top = head + legend + 22;
        canvas::draw(name, (WIDTH, top + HEIGHT), |sheet| {
            write(sheet, &self.title, (LEFT, 13), Anchor::Start, INK)?;
            let below = sheet.clone().shrink((0, head), (WIDTH, legend));
            canvas::legend(&below, &entries, LEFT, WIDTH)?;
            axis_title(sheet, &self.y, (LEFT, top - 14), Anchor::Start)?;
            self.paint(sheet, (top, top + HEIGHT - 44))
        })
    }

    fn paint(&self, sheet: &Sheet<'_>, (top, bottom): (i32, i32)) -> Drawn<()> {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let values = all().map(of).filter(|v| v.is_finite());
            let (least, most) = values
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), v| {
                    (least.min(v), most.max(v))
                });
            // A single value stands in the middle.
            if least < most {
                (least, most)
            } else {
                (least - 0.5, most + 0.5)
            }
        };
        let (x_range, y_range) = (range(|p| p.0), range(|p| p.1));
        let room = (y_range.1 - y_range.0) * 0.06;
        let y_range = match self.from_zero {
            zero if zero => (0.0, y_range.1 + room),
            _ => (y_range.0 - room, y_range.1 + room),
        };
        let scale = |value: f64, (from, to): (f64, f64), length: i32| {
            ((value - from) / (to - from) * f64::from(length)).round() as i32
        };
        let x = |value: f64| LEFT + scale(value, x_range, RIGHT - LEFT);
        let y = |value: f64| bottom - scale(value, y_range, bottom - top);
        for tick in ticks(y_range, 5) {
            let line = vec![(LEFT, y(tick)), (RIGHT, y(tick))];
            sheet.draw(&PathElement::new(line, GRID.stroke_width(1)))?;
            write(sheet, &label(tick), (LEFT - 7, y(tick)), Anchor::End, MUTED)?;
        }
        for tick in ticks(x_range, 6) {
            let mark = vec![(x(tick), bottom), (x(tick), bottom + 4)];
            sheet.draw(&PathElement::new(mark, MUTED.stroke_width(1)))?;
            write(
                sheet,
                &label(tick),
                (x(tick), bottom + 13),
                Anchor::Middle,
                MUTED,
            )?;
        }
        axis_title(sheet, &self.x, (RIGHT, bottom + 32), Anchor::End)?;
        let behind = (0..self.lines.len()).rev().map(|n| 2 + 2 * n.min(3) as u32);
        // Lines that lie on each other are all seen: the first is the widest.
        for (line, wide) in self.lines.iter().zip(behind) {
            let points: Vec<_> = thinned(&line.points)
                .into_iter()
                .map(|(a, b)| (x(a), y(b)))
                .collect();
            if points.len() <= MARKED {
                for point in &points {
                    sheet.draw(&Circle::new(*point, 2 + wide / 2, line.color.filled()))?;
                }
            }
            sheet.draw(&PathElement::new(points, line.color.stroke_width(wide)))?;
        }
        let axis = vec![(LEFT, bottom), (RIGHT, bottom)];
        sheet.draw(&PathElement::new(axis, MUTED.stroke_width(1)))
    }
}

/// The means of neighbours, where there are more points than pixels tell apart.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk
            .iter()
            .fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(size).map(mean).collect()
}
