//! Loss by samples seen, and accuracy by epoch.

use super::super::chart::{Line, Lines, series};
use super::super::document::{Block, Figure, Figures, Section};
use super::super::labels::{Axis, by_part_and_model, groups, label};
use super::of_runs::{commands_of, file_name, part_and_model};
use crate::Result;
use crate::results::Run;

/// Each combination of these has a chart of its own.
const FACETS: [Axis; 3] = [Axis::Batch, Axis::Rate, Axis::Precision];

pub(super) fn section(runs: &[Run]) -> Result<Option<Section>> {
    let mut blocks = Vec::new();
    for (title, group) in by_part_and_model(runs) {
        let mut figures = Vec::new();
        let (part, model) = part_and_model(&group);
        let facets: Vec<_> = FACETS
            .into_iter()
            .filter(|axis| axis.varies(&group))
            .collect();
        let charts = if facets.is_empty() {
            vec![(String::new(), group.clone())]
        } else {
            groups(group.iter().copied(), &facets)
        };
        for (facet, runs) in &charts {
            let of = |what: &str| match facet.as_str() {
                "" => what.to_owned(),
                facet => format!("{what}, {facet}"),
            };
            let said = [&FACETS[..], &[Axis::Part, Axis::Model]].concat();
            let lines = |points: fn(&Run) -> Vec<(f64, f64)>| -> Vec<Line> {
                let line = |(n, run): (usize, &&Run)| Line {
                    name: label(run, runs, &said),
                    color: series(n),
                    points: points(run),
                };
                runs.iter()
                    .enumerate()
                    .map(line)
                    .filter(|line| !line.points.is_empty())
                    .collect()
            };
            let loss = Lines {
                title: of("Loss of a step"),
                lines: lines(loss),
                x: "samples seen".into(),
                y: "training loss".into(),
                from_zero: false,
            };
            let accuracy = Lines {
                title: of("Accuracy after an epoch"),
                lines: lines(accuracy),
                x: "epoch".into(),
                y: "accuracy on the test set".into(),
                from_zero: false,
            };
            for (what, chart) in [("loss", loss), ("accuracy", accuracy)] {
                if chart.lines.is_empty() {
                    continue;
                }
                let name = file_name(&[what, &part, &model, facet]);
                figures.push(Figure {
                    alt: format!("{}: {title}", chart.title),
                    svg: chart.draw(&name)?,
                    name,
                    follows_page: true,
                });
            }
        }
        if !figures.is_empty() {
            blocks.push(Block::Figures(Figures {
                figures,
                caption: format!("{title}: lines that lie on each other learn alike."),
                commands: commands_of(&group),
            }));
        }
    }
    Ok((!blocks.is_empty()).then(|| Section {
        id: "curves",
        title: "Loss and accuracy".into(),
        blocks,
    }))
}

/// The loss of each step by the samples seen until then.
fn loss(run: &Run) -> Vec<(f64, f64)> {
    let mut seen = 0.0;
    let point = |step: &crate::record::StepRecord| {
        seen += step.samples as f64;
        Some((seen, step.loss?))
    };
    run.steps.iter().filter_map(point).collect()
}

/// The accuracy of each epoch, of a run that has several.
fn accuracy(run: &Run) -> Vec<(f64, f64)> {
    match run.epochs() {
        [] | [_] => Vec::new(),
        epochs => epochs
            .iter()
            .map(|e| (e.epoch as f64, e.scores.accuracy))
            .collect(),
    }
}
