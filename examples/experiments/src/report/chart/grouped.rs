//! Bars that stand: some for each group, their values above them.

use super::canvas::{
    self, Anchor, Drawn, Sheet, axis_title, label, legend_height, ticks, width, write,
};
use super::palette::{GRID, INK, MUTED};
use crate::Result;
use plotters::prelude::*;

/// The bars of one group, by series.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// Below them.
    pub(crate) label: String,
    /// One for each series that has one.
    pub(crate) values: Vec<Option<f64>>,
    /// Whether others have published them: they are outlined, not filled.
    pub(crate) is_published: bool,
}

/// A chart of grouped bars.
#[derive(Debug, Clone)]
pub(crate) struct Grouped {
    /// Names and colours.
    pub(crate) series: Vec<(String, RGBColor)>,
    pub(crate) groups: Vec<Group>,
    /// What their height is.
    pub(crate) axis: String,
    /// Decimals of the values above them.
    pub(crate) decimals: usize,
}

const WIDTH: i32 = 820;
const HEIGHT: i32 = 230;
const LEFT: i32 = 56;

/// The height of a line of a group's label.
const LINE: i32 = 15;

impl Grouped {
    /// Draws them.
    pub(crate) fn draw(&self, name: &str) -> Result<String> {
        let entries: Vec<_> = self
            .series
            .iter()
            .map(|(name, color)| (name.as_str(), *color))
            .collect();
        let top = legend_height(&entries, LEFT, WIDTH) + 24;
        let lines = self
            .groups
            .iter()
            .map(|group| lines(&group.label).count())
            .max();
        let foot = 12 + LINE * i32::try_from(lines.unwrap_or(1)).unwrap_or(1);
        canvas::draw(name, (WIDTH, top + HEIGHT + foot), |sheet| {
            canvas::legend(sheet, &entries, LEFT, WIDTH)?;
            axis_title(sheet, &self.axis, (LEFT, top - 18), Anchor::Start)?;
            self.paint(sheet, (top, top + HEIGHT))
        })
    }

    fn paint(&self, sheet: &Sheet<'_>, (top, bottom): (i32, i32)) -> Drawn<()> {
        let values = self.groups.iter().flat_map(|group| &group.values);
        let most = values
            .flatten()
            .fold(f64::MIN_POSITIVE, |most, v| most.max(*v))
            * 1.08;
        let y = |value: f64| bottom - (value / most * f64::from(bottom - top)).round() as i32;
        for tick in ticks((0.0, most), 5) {
            let line = vec![(LEFT, y(tick)), (WIDTH - 8, y(tick))];
            sheet.draw(&PathElement::new(line, GRID.stroke_width(1)))?;
            write(sheet, &label(tick), (LEFT - 8, y(tick)), Anchor::End, MUTED)?;
        }
        let count = |n: usize| i32::try_from(n).unwrap_or(1).max(1);
        let group_width = (WIDTH - 8 - LEFT) / count(self.groups.len());
        let bar_width = ((group_width - 24) / count(self.series.len())).clamp(8, 64);
        for (group, at) in self
            .groups
            .iter()
            .zip((LEFT..).step_by(group_width as usize))
        {
            let middle = at + group_width / 2;
            for (line, below) in lines(&group.label).zip((0..).step_by(LINE as usize)) {
                write(
                    sheet,
                    line,
                    (middle, bottom + 14 + below),
                    Anchor::Middle,
                    INK,
                )?;
            }
            // Bars of a group stand together, also where one of a series is missing.
            let present: Vec<_> = group
                .values
                .iter()
                .zip(&self.series)
                .filter_map(|(value, (_, color))| Some(((*value)?, color)))
                .collect();
            let mut from = middle - bar_width * count(present.len()) / 2;
            for (value, color) in present {
                let bar = [(from + 2, y(value)), (from + bar_width - 2, bottom)];
                if group.is_published {
                    sheet.draw(&Rectangle::new(bar, color.mix(0.2).filled()))?;
                    sheet.draw(&Rectangle::new(bar, color.stroke_width(2)))?;
                } else {
                    sheet.draw(&Rectangle::new(bar, color.filled()))?;
                }
                // Fewer decimals where a bar is narrow, and no number where even that is too wide.
                let decimals = (0..=self.decimals).rev();
                let mut texts = decimals.map(|decimals| format!("{value:.decimals$}"));
                let text = texts.find(|text| width(text) <= bar_width + 2);
                let text = text.unwrap_or_default();
                write(
                    sheet,
                    &text,
                    (from + bar_width / 2, y(value) - 9),
                    Anchor::Middle,
                    INK,
                )?;
                from += bar_width;
            }
        }
        let axis = vec![(LEFT, bottom), (WIDTH - 8, bottom)];
        sheet.draw(&PathElement::new(axis, MUTED.stroke_width(1)))
    }
}

/// The lines of a group's label.
fn lines(label: &str) -> impl Iterator<Item = &str> {
    label.split(", ")
}
