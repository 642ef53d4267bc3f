//! All commands, to run again.

use super::super::document::{Block, Section};
use super::of_runs::commands_of;
use crate::results::Run;

pub(super) fn section(runs: &[Run]) -> Section {
    let all: Vec<_> = runs.iter().collect();
    let text = "A run on several nodes is one command on each, at the same time. A folder of records is never overwritten, \
                so --log-to needs another name to run one again.";
    Section {
        id: "commands",
        title: "All commands".into(),
        blocks: vec![Block::Text(text.into()), Block::Commands(commands_of(&all))],
    }
}
