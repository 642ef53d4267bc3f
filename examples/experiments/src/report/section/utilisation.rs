//! The utilisation of processors, memory, network and GPUs over time.

use super::super::chart::{Line, Lines, series};
use super::super::document::{Block, Figure, Figures, Section};
use super::super::labels::{Axis, by_part_and_model, groups, marked};
use super::{commands_of, file_name};
use crate::Result;
use crate::results::{Run, Sample};
use std::collections::BTreeMap;

/// What is drawn: a name, an axis, and a sample's value.
type Quantity = (&'static str, &'static str, fn(&Sample) -> Option<f64>);

const QUANTITIES: [Quantity; 5] = [
    ("cpu", "percent of a core", |s| Some(s.cpu_percent)),
    ("memory", "MB of memory", |s| Some(s.memory_bytes / 1e6)),
    ("network", "MB/s sent by the host", |s| {
        Some(s.net_sent_bytes_per_s? / 1e6)
    }),
    ("gpu", "percent of a GPU", |s| s.gpu_percent),
    ("gpu-memory", "MB of GPU memory", |s| {
        Some(s.gpu_memory_bytes? / 1e6)
    }),
];

pub(super) fn section(runs: &[Run]) -> Result<Option<Section>> {
    let mut blocks = Vec::new();
    for (title, group) in by_part_and_model(runs) {
        let shown = shown(&group);
        let mut figures = Vec::new();
        for run in &shown {
            figures.extend(of_run(
                run,
                &marked(run, &group, &[Axis::Part, Axis::Model]),
            )?);
        }
        if figures.is_empty() {
            continue;
        }
        blocks.push(Block::Figures(Figures {
            figures,
            caption: format!(
                "{title}: each rank once a second, the start of its processes counted. Of runs on the same set-up \
                 the one with the largest batch is drawn."
            ),
            commands: commands_of(&shown),
        }));
    }
    if blocks.is_empty() && runs.iter().any(|run| run.summary.is_some()) {
        blocks.push(Block::Text(
            "No run has recorded it: its folder has no utilisation.csv.".into(),
        ));
    }
    Ok((!blocks.is_empty()).then(|| Section {
        id: "utilisation",
        title: "Utilisation over time".into(),
        blocks,
    }))
}

/// One run for each strategy, set-up and link.
fn shown<'a>(group: &[&'a Run]) -> Vec<&'a Run> {
    let sampled = group
        .iter()
        .copied()
        .filter(|run| !run.utilisation.is_empty());
    let groups = groups(sampled, &[Axis::Strategy, Axis::Setup, Axis::Link]);
    let largest = |(_, runs): (String, Vec<&'a Run>)| {
        // Of equals the last: the first counts.
        runs.into_iter()
            .rev()
            .max_by_key(|run| run.experiment.batch)
    };
    groups.into_iter().filter_map(largest).collect()
}

fn of_run(run: &Run, label: &str) -> Result<Vec<Figure>> {
    let began = run
        .utilisation
        .iter()
        .map(|s| s.time)
        .fold(f64::INFINITY, f64::min);
    let mut figures = Vec::new();
    for (what, axis, of) in QUANTITIES {
        // On one host ranks send to each other without it.
        if what == "network" && run.experiment.setup.nodes == 1 {
            continue;
        }
        let mut by_rank: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in &run.utilisation {
            if let Some(value) = of(sample) {
                by_rank
                    .entry(sample.rank)
                    .or_default()
                    .push((sample.time - began, value));
            }
        }
        if by_rank.is_empty() {
            continue;
        }
        let line = |(rank, points)| Line {
            name: format!("rank {rank}"),
            color: series(rank),
            points,
        };
        let chart = Lines {
            title: label.to_owned(),
            lines: by_rank.into_iter().map(line).collect(),
            x: "seconds".into(),
            y: axis.into(),
            from_zero: true,
        };
        let name = file_name(&[what, &run.name()]);
        figures.push(Figure {
            alt: format!("{axis} over time: {}", run.name()),
            svg: chart.draw(&name)?,
            name,
            follows_page: true,
        });
    }
    Ok(figures)
}
