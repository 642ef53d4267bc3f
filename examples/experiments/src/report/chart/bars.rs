//! Bars that lie: one for each row, of one or several parts.

use super::canvas::{
    self, Anchor, Drawn, Sheet, axis_title, label, legend_height, ticks, width, write,
};
use super::palette::{GRID, INK, MUTED};
use crate::Result;
use plotters::prelude::*;

/// What a colour stands for.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) color: RGBColor,
}

/// One bar.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    /// Left of it.
    pub(crate) label: String,
    /// Lengths of its parts, by key.
    pub(crate) parts: Vec<(usize, f64)>,
    /// A thin bar below it.
    pub(crate) below: Option<(usize, f64)>,
    /// Right of it.
    pub(crate) note: String,
}

/// A chart of bars.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub(crate) keys: Vec<Key>,
    pub(crate) bars: Vec<Bar>,
    /// What their length is.
    pub(crate) axis: String,
}

const WIDTH: i32 = 820;
const ROW: i32 = 30;

impl Bars {
    /// Draws them.
    pub(crate) fn draw(&self, name: &str) -> Result<String> {
        let entries: Vec<_> = self.keys.iter().map(|k| (k.name, k.color)).collect();
        let longest = |text: fn(&Bar) -> &str| self.bars.iter().map(|b| width(text(b))).max();
        let left = 16 + longest(|b| &b.label).unwrap_or(0);
        let right = WIDTH - 16 - longest(|b| &b.note).unwrap_or(0);
        // One colour that is said in the caption needs no legend.
        let top = match entries.len() {
            1 => 8,
            _ => legend_height(&entries, left, WIDTH) + 4,
        };
        let rows = i32::try_from(self.bars.len()).unwrap_or(0);
        let height = top + rows * ROW + 44;
        canvas::draw(name, (WIDTH, height), |sheet| {
            if entries.len() > 1 {
                canvas::legend(sheet, &entries, left, WIDTH)?;
            }
            self.paint(sheet, (left, right), (top, top + rows * ROW))
        })
    }

    fn paint(
        &self,
        sheet: &Sheet<'_>,
        (left, right): (i32, i32),
        (top, bottom): (i32, i32),
    ) -> Drawn<()> {
        let sum = |bar: &Bar| bar.parts.iter().map(|(_, length)| length).sum::<f64>();
        let below = |bar: &Bar| bar.below.map_or(0.0, |(_, length)| length);
        let most = self.bars.iter().map(|bar| sum(bar).max(below(bar)));
        let most = most.fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| left + (value / most * f64::from(right - left)).round() as i32;
        for tick in ticks((0.0, most), 6) {
            let line = vec![(x(tick), top), (x(tick), bottom)];
            sheet.draw(&PathElement::new(line, GRID.stroke_width(1)))?;
            write(
                sheet,
                &label(tick),
                (x(tick), bottom + 11),
                Anchor::Middle,
                MUTED,
            )?;
        }
        axis_title(sheet, &self.axis, (left, bottom + 32), Anchor::Start)?;
        for (bar, y) in self.bars.iter().zip((top..).step_by(ROW as usize)) {
            let high = if bar.below.is_some() { 15 } else { 20 };
            let middle = y + 3 + high / 2;
            write(sheet, &bar.label, (left - 8, middle), Anchor::End, INK)?;
            let mut from = 0.0;
            for (key, length) in &bar.parts {
                self.rectangle(
                    sheet,
                    *key,
                    (x(from), x(from + length)),
                    (y + 3, y + 3 + high),
                )?;
                from += length;
            }
            if let Some((key, length)) = bar.below {
                self.rectangle(sheet, key, (x(0.0), x(length)), (y + 20, y + 25))?;
            }
            let end = x(sum(bar).max(below(bar)));
            write(sheet, &bar.note, (end + 6, middle), Anchor::Start, INK)?;
        }
        Ok(())
    }

    fn rectangle(&self, sheet: &Sheet<'_>, key: usize, x: (i32, i32), y: (i32, i32)) -> Drawn<()> {
        let color = self.keys.get(key).map_or(MUTED, |key| key.color);
        if x.1 <= x.0 {
            return Ok(());
        }
        sheet.draw(&Rectangle::new([(x.0, y.0), (x.1, y.1)], color.filled()))
    }
}
