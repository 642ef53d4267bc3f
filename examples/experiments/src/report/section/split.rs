//! What a step's time goes to: data, forward, backward, communication, optimizer.

use super::super::chart::{
    BACKWARD, Bar, Bars, DATA, EXPOSED, FORWARD, HIDDEN, Key, OPTIMIZER, OTHER,
};
use super::super::document::{Block, Figure, Figures, Section};
use super::super::labels::{Axis, apart_from_rates, by_part_and_model, marked};
use super::super::numbers::seconds;
use super::of_runs::{commands_of, file_name, part_and_model};
use crate::Result;
use crate::record::StepTimes;
use crate::results::Run;

/// The number of hidden communication among the keys.
const HIDDEN_KEY: usize = 6;

pub(super) fn section(runs: &[Run]) -> Result<Option<Section>> {
    let mut blocks = vec![Block::Text(
        "Neither study told these apart. Communication for which computation waits is exposed; what goes on behind it \
         is hidden and drawn below, as it takes no time of its own."
            .into(),
    )];
    for (title, group) in by_part_and_model(runs) {
        let group = apart_from_rates(&group);
        let (part, model) = part_and_model(&group);
        let name = file_name(&["split", &part, &model]);
        let figure = Figure {
            alt: format!("The split of a step: {title}"),
            svg: chart(&group).draw(&name)?,
            name,
            follows_page: true,
        };
        blocks.push(Block::Figures(Figures {
            figures: vec![figure],
            caption: format!(
                "{title}: the mean step of all ranks in percent, and its length at the right. Other is what belongs to \
                 no part, such as the progress of the program."
            ),
            commands: commands_of(&group),
        }));
    }
    Ok((blocks.len() > 1).then(|| Section {
        id: "split",
        title: "What a step's time goes to".into(),
        blocks,
    }))
}

/// The parts of a step in percent of it, and what is left.
pub(super) fn shares(times: &StepTimes) -> [f64; 6] {
    let step = times.step.mean.max(f64::MIN_POSITIVE);
    let parts = [
        times.data,
        times.forward,
        times.backward,
        times.exposed,
        times.optimizer,
    ];
    let [data, forward, backward, exposed, optimizer] = parts.map(|part| 100.0 * part.mean / step);
    let other = 100.0 - (data + forward + backward + exposed + optimizer);
    [data, forward, backward, exposed, optimizer, other.max(0.0)]
}

fn chart(runs: &[&Run]) -> Bars {
    let key = |(name, color)| Key { name, color };
    let keys = [
        ("data", DATA),
        ("forward", FORWARD),
        ("backward", BACKWARD),
        ("exposed communication", EXPOSED),
        ("optimizer", OPTIMIZER),
        ("other", OTHER),
        ("hidden communication (below)", HIDDEN),
    ];
    let bar = |run: &&Run| {
        let times = &run.summary.as_ref()?.seconds;
        let step = times.step.mean.max(f64::MIN_POSITIVE);
        Some(Bar {
            label: marked(run, runs, &[Axis::Part, Axis::Model]),
            parts: shares(times).into_iter().enumerate().collect(),
            below: Some((HIDDEN_KEY, 100.0 * times.hidden.mean / step)),
            note: seconds(times.step.mean),
        })
    };
    Bars {
        keys: keys.map(key).into(),
        bars: runs.iter().filter_map(bar).collect(),
        axis: "percent of a step".into(),
    }
}
