//! Memory of a rank, by strategy and set-up.

use super::super::chart::{Bar, Bars, Key, OTHER, series};
use super::super::document::{Block, Figure, Figures, Section};
use super::super::labels::{Axis, apart_from_rates, by_part_and_model, label};
use super::super::numbers::bytes;
use super::of_runs::{commands_of, file_name, part_and_model};
use crate::Result;
use crate::results::Run;

pub(super) fn section(runs: &[Run]) -> Result<Option<Section>> {
    let mut blocks = Vec::new();
    for (title, group) in by_part_and_model(runs) {
        let group = apart_from_rates(&group);
        let peak = |run: &Run| {
            run.summary
                .as_ref()
                .map(|s| s.peak_bytes.most)
                .filter(|peak| *peak > 0.0)
        };
        let group: Vec<_> = group
            .into_iter()
            .filter(|run| peak(run).is_some())
            .collect();
        if group.is_empty() {
            continue;
        }
        let bar = |run: &&Run| {
            let peak = peak(run)?;
            let planned = run.config.planned_bytes;
            let note = match planned {
                Some(planned) => format!("{}, kept {}", bytes(peak), bytes(planned as f64)),
                None => bytes(peak),
            };
            Some(Bar {
                label: label(run, &group, &[Axis::Part, Axis::Model]),
                parts: vec![(0, peak / 1e6)],
                below: planned.map(|planned| (1, planned as f64 / 1e6)),
                note,
            })
        };
        let key = |name, color| Key { name, color };
        let chart = Bars {
            keys: vec![
                key("the most that a rank has held", series(0)),
                key(
                    "parameters, gradients and optimizer by the strategy's plan (below)",
                    OTHER,
                ),
            ],
            bars: group.iter().filter_map(bar).collect(),
            axis: "MB of a rank".into(),
        };
        let (part, model) = part_and_model(&group);
        let name = file_name(&["memory", &part, &model]);
        blocks.push(Block::Figures(Figures {
            figures: vec![Figure {
                alt: format!("Memory of a rank: {title}"),
                svg: chart.draw(&name)?,
                name,
                follows_page: true,
            }],
            caption: format!(
                "{title}: what the rank with the most has held at once, activations of its batch counted. The plan is what \
                 stays between steps: under DDP all of it on each rank, under FSDP a share."
            ),
            commands: commands_of(&group),
        }));
    }
    Ok((!blocks.is_empty()).then(|| Section {
        id: "memory",
        title: "Memory of a rank".into(),
        blocks,
    }))
}
