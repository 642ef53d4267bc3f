//! Bytes that a rank sends in a step.

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
        let sent = |run: &Run| {
            run.summary
                .as_ref()
                .map(|s| s.sent_bytes.mean)
                .filter(|sent| *sent > 0.0)
        };
        // A rank alone sends nothing.
        let group: Vec<_> = group
            .into_iter()
            .filter(|run| sent(run).is_some())
            .collect();
        if group.is_empty() {
            continue;
        }
        let bar = |run: &&Run| {
            let sent = sent(run)?;
            let planned = run.config.planned_sent;
            let note = match planned {
                Some(planned) => format!("{}, planned {}", bytes(sent), bytes(planned as f64)),
                None => bytes(sent),
            };
            Some(Bar {
                label: label(run, &group, &[Axis::Part, Axis::Model]),
                parts: vec![(0, sent / 1e6)],
                below: planned.map(|planned| (1, planned as f64 / 1e6)),
                note,
            })
        };
        let key = |name, color| Key { name, color };
        let chart = Bars {
            keys: vec![
                key("sent by a rank in a step", series(2)),
                key("by the strategy's plan (below)", OTHER),
            ],
            bars: group.iter().filter_map(bar).collect(),
            axis: "MB sent by a rank in a step".into(),
        };
        let (part, model) = part_and_model(&group);
        let name = file_name(&["traffic", &part, &model]);
        blocks.push(Block::Figures(Figures {
            figures: vec![Figure {
                alt: format!("Bytes of a step: {title}"),
                svg: chart.draw(&name)?,
                name,
                follows_page: true,
            }],
            caption: format!(
                "{title}: bytes that a rank sends in a step, the mean of all ranks and steps."
            ),
            commands: commands_of(&group),
        }));
    }
    Ok((!blocks.is_empty()).then(|| Section {
        id: "traffic",
        title: "Bytes of a step".into(),
        blocks,
    }))
}
