//! The sections of a report, each of which says nothing where there is nothing to say.

mod commands;
mod curves;
mod epoch_time;
mod memory;
mod of_runs;
mod overview;
mod split;
mod stragglers;
mod study_a;
mod study_b;
mod trace;
mod traffic;
mod utilisation;

use super::document::{Card, Section};
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
