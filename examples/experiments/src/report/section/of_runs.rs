//! What figures say of the runs they are of: commands, file names, what all have in common.

use super::super::document::Command;
use crate::results::Run;

/// The commands of runs, for what they have made.
pub(super) fn commands_of(runs: &[&Run]) -> Vec<Command> {
    let command = |run: &&Run| Command {
        run: run.name(),
        lines: run.commands.clone(),
    };
    runs.iter().map(command).collect()
}

/// The name of a figure's file.
pub(super) fn file_name(parts: &[&str]) -> String {
    let text = parts.join("_");
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '_' || c == '-' => c,
        _ => '-',
    };
    text.chars().map(plain).collect()
}

/// The part of the matrix and the model of runs that have both in common.
pub(super) fn part_and_model(runs: &[&Run]) -> (String, String) {
    let first = runs.first().map(|run| &run.experiment);
    first.map_or_else(Default::default, |one| {
        (one.part.clone(), one.model.to_string())
    })
}
