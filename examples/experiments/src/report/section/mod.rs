//! The sections of a report, each of which says nothing where there is nothing to say.

mod commands;
mod curves;
mod epoch_time;
mod memory;
mod overview;
mod split;
mod stragglers;
mod study_a;
mod study_b;
mod trace;
mod traffic;
mod utilisation;

use super::document::{Card, Command, Section};
use crate::Result;
use crate::matrix::Matrix;
use crate::results::Run;

/// All sections of a report, in their order.
pub(super) fn all(matrix: &Matrix, runs: &[Run]) -> Result<Vec<Section>> {
    let mut sections = vec![overview::section(matrix, runs)];
    sections.extend(study_a::section(runs));
    sections.extend(study_b::sections(runs)?);
    sections.extend(epoch_time::section(runs)?);
    sections.extend(split::section(runs)?);
    sections.extend(memory::section(runs)?);
    sections.extend(traffic::section(runs)?);
    sections.extend(curves::section(runs)?);
    sections.extend(utilisation::section(runs)?);
    sections.extend(stragglers::section(runs));
    sections.extend(trace::section(runs));
    sections.push(commands::section(runs));
    Ok(sections)
}

/// The most important numbers.
pub(super) fn cards(runs: &[Run]) -> Vec<Card> {
    overview::cards(runs)
}

/// The commands of runs, for what they have made.
fn commands_of(runs: &[&Run]) -> Vec<Command> {
    let command = |run: &&Run| Command {
        run: run.name(),
        lines: run.commands.clone(),
    };
    runs.iter().map(command).collect()
}

/// The name of a figure's file.
fn file_name(parts: &[&str]) -> String {
    let text = parts.join("_");
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '_' || c == '-' => c,
        _ => '-',
    };
    text.chars().map(plain).collect()
}

/// The part of the matrix and the model of runs that have both in common.
fn part_and_model(runs: &[&Run]) -> (String, String) {
    let first = runs.first().map(|run| &run.experiment);
    first.map_or_else(Default::default, |one| {
        (one.part.clone(), one.model.to_string())
    })
}
