//! Ranks that were slower than the others for long.

use super::super::document::{Block, Section, Table};
use super::super::numbers::times;
use crate::results::Run;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let finished: Vec<_> = runs
        .iter()
        .filter_map(|run| Some((run, run.summary.as_ref()?)))
        .collect();
    if finished.is_empty() {
        return None;
    }
    let mut table = Table::new(
        "Its time is by that of the other ranks.",
        &[
            "run",
            "#rank",
            "host",
            "#named at step",
            "#its time",
            "cause",
        ],
    );
    for (run, summary) in &finished {
        for found in &summary.stragglers {
            table.row(vec![
                run.name().into(),
                found.rank.to_string().into(),
                found.host.as_str().into(),
                found.step.to_string().into(),
                times(found.ratio).into(),
                found.cause.as_str().into(),
            ]);
        }
    }
    let block = if table.rows.is_empty() {
        Block::Text("No rank of any run was slower than the others for long.".into())
    } else {
        Block::Table(table)
    };
    Some(Section {
        id: "stragglers",
        title: "Stragglers".into(),
        blocks: vec![block],
    })
}
