//! The time of an epoch by set-up, with speed-up and efficiency.

use super::super::chart::{Group, Grouped, series};
use super::super::document::{Block, Cell, Figure, Figures, Section, Table, Tone};
use super::super::labels::{Axis, by_part_and_model, groups, label, marked};
use super::super::numbers::{per_second, percent, seconds, times};
use super::of_runs::{commands_of, file_name, part_and_model};
use crate::Result;
use crate::results::{Run, SpeedUp};

/// The axes that may be colours, the first that varies.
const COLORS: [Axis; 4] = [Axis::Strategy, Axis::Batch, Axis::Link, Axis::Rate];

pub(super) fn section(runs: &[Run]) -> Result<Option<Section>> {
    let mut blocks = Vec::new();
    for (title, group) in by_part_and_model(runs) {
        let group: Vec<_> = group
            .into_iter()
            .filter(|run| run.seconds_per_epoch().is_some())
            .collect();
        if group.is_empty() {
            continue;
        }
        blocks.push(Block::Figures(figure(&title, &group)?));
        blocks.push(Block::Table(table(&group, runs)));
    }
    Ok((!blocks.is_empty()).then(|| Section {
        id: "time",
        title: "Seconds of an epoch".into(),
        blocks,
    }))
}

fn figure(title: &str, runs: &[&Run]) -> Result<Figures> {
    let color = COLORS
        .into_iter()
        .find(|axis| axis.varies(runs))
        .unwrap_or(Axis::Strategy);
    let by_color = groups(runs.iter().copied(), &[color]);
    let names = by_color.iter().enumerate();
    let series = names
        .map(|(n, (name, _))| (name.clone(), series(n)))
        .collect();
    let mut bars: Vec<Group> = Vec::new();
    for run in runs {
        let label = marked(run, runs, &[color, Axis::Part, Axis::Model]);
        let value = color.of(&run.experiment);
        let at = by_color.iter().position(|(name, _)| *name == value);
        let known = bars.iter().position(|bar| bar.label == label);
        let known = known.unwrap_or_else(|| {
            bars.push(Group {
                label,
                values: vec![None; by_color.len()],
                is_published: false,
            });
            bars.len() - 1
        });
        if let (Some(group), Some(at)) = (bars.get_mut(known), at)
            && let Some(value) = group.values.get_mut(at)
        {
            *value = run.seconds_per_epoch();
        }
    }
    let most = runs
        .iter()
        .filter_map(|run| run.seconds_per_epoch())
        .fold(0.0, f64::max);
    let chart = Grouped {
        series,
        groups: bars,
        axis: "seconds of an epoch's training".into(),
        decimals: if most >= 20.0 { 1 } else { 2 },
    };
    let (part, model) = part_and_model(runs);
    let name = file_name(&["time", &part, &model]);
    Ok(Figures {
        figures: vec![Figure {
            alt: format!("Seconds of an epoch: {title}"),
            svg: chart.draw(&name)?,
            name,
            follows_page: true,
        }],
        caption: format!(
            "{title}: mean seconds of an epoch's training, evaluation not counted; less is better."
        ),
        commands: commands_of(runs),
    })
}

fn table(group: &[&Run], runs: &[Run]) -> Table {
    let mut table = Table::new(
        "Speed-up is the time on 1_1 by the time here, efficiency is that by the number of ranks; both need a run on 1_1 \
         that differs in nothing else, and a core for each thread.",
        &["run", "#s/epoch", "#samples/s", "#speed-up", "#efficiency"],
    );
    for run in group {
        let found = SpeedUp::of(run, runs);
        let efficiency = match found {
            Some(found) => {
                let tone = if found.efficiency >= 0.8 {
                    Tone::Good
                } else {
                    Tone::Plain
                };
                Cell::from(percent(found.efficiency)).tone(tone)
            }
            None if run.shares_cores => Cell::from("shares cores").tone(Tone::Muted),
            None => Cell::maybe(None),
        };
        let summary = run.summary.as_ref();
        table.row(vec![
            label(run, group, &[Axis::Part, Axis::Model]).into(),
            Cell::maybe(run.seconds_per_epoch().map(seconds)),
            Cell::maybe(summary.map(|s| per_second(s.samples_per_s))),
            Cell::maybe(found.map(|found| times(found.times))),
            efficiency,
        ]);
    }
    table
}
