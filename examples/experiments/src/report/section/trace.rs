//! Pictures of traced steps.

use super::super::document::{Block, Figure, Figures, Section};
use super::of_runs::{commands_of, file_name};
use crate::results::Run;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let block = |run: &Run| {
        let svg = run.trace.clone()?;
        Some(Block::Figures(Figures {
            figures: vec![Figure {
                name: file_name(&["trace", &run.name()]),
                alt: format!("A traced step of {}", run.name()),
                svg,
                follows_page: false,
            }],
            caption: format!(
                "{}: one step of every rank. The trace.json in its folder opens in Perfetto.",
                run.name()
            ),
            commands: commands_of(&[run]),
        }))
    };
    let blocks: Vec<_> = runs.iter().filter_map(block).collect();
    (!blocks.is_empty()).then(|| Section {
        id: "traces",
        title: "A step, traced".into(),
        blocks,
    })
}
