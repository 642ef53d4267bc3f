//! What all charts draw with: a sheet, text, a legend, and round numbers for an axis.

use super::palette::{INK, MUTED, PAPER};
use crate::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A sheet in pixels.
pub(super) type Sheet<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What drawing may fail with.
pub(super) type Drawn<T> = std::result::Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// The size of text, in pixels.
pub(super) const TEXT: u32 = 12;

/// The height of a line of the legend.
const LEGEND_LINE: i32 = 20;

/// Draws a chart and returns it as SVG.
pub(super) fn draw(
    name: &str,
    size: (i32, i32),
    paint: impl FnOnce(&Sheet<'_>) -> Drawn<()>,
) -> Result<String> {
    let mut svg = String::new();
    let pixels = |n: i32| u32::try_from(n).unwrap_or(1);
    let drawn = {
        let backend = SVGBackend::with_string(&mut svg, (pixels(size.0), pixels(size.1)));
        let sheet = backend.into_drawing_area();
        sheet
            .fill(&PAPER)
            .and_then(|()| paint(&sheet))
            .and_then(|()| sheet.present())
    };
    drawn.map_err(|e| Error::Drawing {
        figure: name.into(),
        found: e.to_string(),
    })?;
    Ok(svg)
}

/// Where text stands relative to its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    /// Right of it.
    Start,
    /// Around it.
    Middle,
    /// Left of it.
    End,
}

/// Writes a line of text, vertically centred.
pub(super) fn write(
    sheet: &Sheet<'_>,
    text: &str,
    at: (i32, i32),
    anchor: Anchor,
    color: RGBColor,
) -> Drawn<()> {
    let horizontal = match anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    let style = ("sans-serif", TEXT).into_font().color(&color);
    let style = style.pos(Pos::new(horizontal, VPos::Center));
    sheet.draw(&Text::new(text.to_owned(), at, style))
}

/// About how wide text is, in pixels, without a font to ask.
pub(super) fn width(text: &str) -> i32 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | ' ' | '.' | ',' | '(' | ')' | ':' | '|' => 44,
        'm' | 'w' | 'M' | 'W' | '%' => 108,
        'A'..='Z' | '0'..='9' | '_' => 78,
        _ => 74,
    };
    text.chars().map(of).sum::<i32>() / 10
}

/// Writes what each colour stands for into lines at the top, and returns their height.
pub(super) fn legend(
    sheet: &Sheet<'_>,
    entries: &[(&str, RGBColor)],
    left: i32,
    right: i32,
) -> Drawn<i32> {
    let (mut x, mut y) = (left, 12);
    for (name, color) in entries {
        let wide = 16 + width(name) + 18;
        if x > left && x + wide > right {
            (x, y) = (left, y + LEGEND_LINE);
        }
        let square = [(x, y - 6), (x + 11, y + 5)];
        sheet.draw(&Rectangle::new(square, color.filled()))?;
        write(sheet, name, (x + 16, y), Anchor::Start, INK)?;
        x += wide;
    }
    Ok(y + 14)
}

/// How high a legend will be.
pub(super) fn legend_height(entries: &[(&str, RGBColor)], left: i32, right: i32) -> i32 {
    let (mut x, mut y) = (left, 12);
    for (name, _) in entries {
        let wide = 16 + width(name) + 18;
        if x > left && x + wide > right {
            (x, y) = (left, y + LEGEND_LINE);
        }
        x += wide;
    }
    y + 14
}

/// About `count` round numbers from `from` to `to`, which they may leave out.
pub(super) fn ticks((from, to): (f64, f64), count: usize) -> Vec<f64> {
    let rough = (to - from) / count.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![from];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|n| n * power);
    let step = step
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (from / step).ceil();
    let numbers = (0..100).map(|n| (first + f64::from(n)) * step);
    numbers
        .take_while(|tick| *tick <= to + step * 1e-6)
        .collect()
}

/// A number of an axis.
pub(super) fn label(value: f64) -> String {
    let value = if value.abs() < 1e-12 { 0.0 } else { value };
    match value.abs() {
        large if large >= 1e5 => format!("{} k", round(value / 1e3, 3)),
        _ => round(value, 4),
    }
}

/// With at most so many decimals, and none that is 0.
fn round(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        has if has => text.trim_end_matches('0').trim_end_matches('.').into(),
        _ => text,
    }
}

/// The title of an axis, at its end.
pub(super) fn axis_title(
    sheet: &Sheet<'_>,
    text: &str,
    at: (i32, i32),
    anchor: Anchor,
) -> Drawn<()> {
    write(sheet, text, at, anchor, MUTED)
}
