//! What tells runs apart: the axes that differ among them.

use crate::matrix::Experiment;
use crate::results::Run;

/// The link of nodes that are given none.
pub(super) const AS_IT_IS: &str = "as it is";

/// An axis of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    Part,
    Model,
    Strategy,
    Setup,
    Batch,
    Rate,
    Precision,
    Link,
}

/// All of them, in the order in which labels name them.
const ALL: [Axis; 8] = [
    Axis::Part,
    Axis::Model,
    Axis::Strategy,
    Axis::Setup,
    Axis::Batch,
    Axis::Rate,
    Axis::Precision,
    Axis::Link,
];

impl Axis {
    /// A run's value on it, as a label names it.
    pub(super) fn of(self, one: &Experiment) -> String {
        match self {
            Self::Part => one.part.clone(),
            Self::Model => one.model.to_string(),
            Self::Strategy => one.strategy.to_string(),
            Self::Setup => one.setup.to_string(),
            Self::Batch => format!("batch {}", one.batch),
            Self::Rate => format!("rate {:e}", one.rate),
            Self::Precision => one.precision.to_string(),
            Self::Link => one
                .link
                .as_ref()
                .map_or(AS_IT_IS.into(), ToString::to_string),
        }
    }

    /// Whether runs differ on it.
    pub(super) fn varies(self, runs: &[&Run]) -> bool {
        let mut values = runs.iter().map(|run| self.of(&run.experiment));
        values
            .next()
            .is_some_and(|first| values.any(|v| v != first))
    }
}

/// A run's values on these axes; without any its set-up.
fn values(run: &Run, axes: impl Iterator<Item = Axis>) -> String {
    let values: Vec<_> = axes.map(|axis| axis.of(&run.experiment)).collect();
    if values.is_empty() {
        Axis::Setup.of(&run.experiment)
    } else {
        values.join(", ")
    }
}

/// The label of a run among others, without what `said` says already.
pub(super) fn label(run: &Run, among: &[&Run], said: &[Axis]) -> String {
    let axes = ALL
        .into_iter()
        .filter(|axis| !said.contains(axis) && axis.varies(among));
    values(run, axes)
}

/// The label of a run with whether its ranks share cores.
pub(super) fn marked(run: &Run, among: &[&Run], said: &[Axis]) -> String {
    let label = label(run, among, said);
    if run.shares_cores {
        format!("{label}, shares cores")
    } else {
        label
    }
}

/// Runs by their values on some axes, in the order in which they first come.
pub(super) fn groups<'a>(
    runs: impl IntoIterator<Item = &'a Run>,
    axes: &[Axis],
) -> Vec<(String, Vec<&'a Run>)> {
    let mut groups: Vec<(String, Vec<&Run>)> = Vec::new();
    for run in runs {
        let key = values(run, axes.iter().copied());
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(run),
            None => groups.push((key, vec![run])),
        }
    }
    groups
}

/// Finished runs by part of the matrix and model.
pub(super) fn by_part_and_model(runs: &[Run]) -> Vec<(String, Vec<&Run>)> {
    let finished = runs.iter().filter(|run| run.summary.is_some());
    let groups = groups(finished, &[Axis::Part, Axis::Model]);
    let titled = groups.into_iter().filter_map(|(_, group)| {
        let one = &group.first()?.experiment;
        Some((format!("{}, {}", part_name(&one.part), one.model), group))
    });
    titled.collect()
}

/// Those of runs that differ in more than the learning rate, on which neither time nor memory depends: the first of each.
pub(super) fn apart_from_rates<'a>(runs: &[&'a Run]) -> Vec<&'a Run> {
    let mut kept: Vec<&Run> = Vec::new();
    for run in runs {
        let at_its_rate = |other: &&Run| {
            let one = Experiment {
                rate: run.experiment.rate,
                ..other.experiment.clone()
            };
            one == run.experiment
        };
        if !kept.iter().any(at_its_rate) {
            kept.push(run);
        }
    }
    kept
}

/// A part of a matrix in words.
pub(super) fn part_name(part: &str) -> &str {
    match part {
        "a" => "Study A",
        "b1" => "Study B, experiment 1",
        "b2" => "Study B, experiment 2",
        "b3" => "Study B, experiment 3",
        other => other,
    }
}

/// The same for the column of a table.
pub(super) fn short_part_name(part: &str) -> &str {
    match part {
        "a" => "A",
        "b1" => "B 1",
        "b2" => "B 2",
        "b3" => "B 3",
        other => other,
    }
}
