//! The matrix at a glance: every run in one line, and the most important numbers.

use super::super::document::{Block, Card, Cell, Section, Table, Tone};
use super::super::labels::{AS_IT_IS, Axis, short_part_name};
use super::super::numbers::{bytes, per_second, percent, score, seconds, times};
use crate::matrix::{Experiment, Matrix};
use crate::results::{Run, SpeedUp, Status};

pub(super) fn section(matrix: &Matrix, runs: &[Run]) -> Section {
    let all: Vec<_> = runs.iter().collect();
    let (columns, constant): (Vec<_>, Vec<_>) = AXES
        .into_iter()
        .partition(|(axis, ..)| *axis == Axis::Setup || axis.varies(&all));
    let titles: Vec<_> = columns
        .iter()
        .map(|(_, title, _)| *title)
        .chain(RESULTS)
        .collect();
    let mut table = Table::new(
        "Seconds of an epoch are its training alone. Memory is the most that a rank has held, bytes are what it sent \
         in a step. Where ranks times threads exceed the cores of the machine, the row shares cores: its times say \
         nothing about more ranks, so it has no efficiency.",
        &titles,
    );
    for run in runs {
        let axes = columns.iter().map(|(.., value)| value(&run.experiment));
        table.row(axes.chain(results(run, runs)).collect());
    }
    let mut blocks = Vec::new();
    if let Some(first) = runs.first() {
        let value = |(axis, ..): &Column| axis.of(&first.experiment);
        let values: Vec<_> = constant
            .iter()
            .filter(|column| column.0 != Axis::Part)
            .map(value)
            .collect();
        let link = if values.iter().any(|value| value == AS_IT_IS) {
            "; nodes are connected as they are"
        } else {
            ""
        };
        let values: Vec<_> = values
            .into_iter()
            .filter(|value| value != AS_IT_IS)
            .collect();
        if !values.is_empty() {
            blocks.push(Block::Text(format!(
                "All runs: {}{link}.",
                values.join(", ")
            )));
        }
    }
    blocks.push(Block::Table(table));
    blocks.extend(disturbances(runs).map(Block::Text));
    for run in runs {
        if let Status::Failed(why) = &run.status {
            blocks.push(Block::Text(format!("{} has failed: {why}", run.name())));
        }
    }
    if !matrix.left_out.is_empty() {
        let all = matrix.left_out.join("; ");
        blocks.push(Block::Text(format!("Left out, as they cannot be: {all}.")));
    }
    Section {
        id: "matrix",
        title: "The matrix at a glance".into(),
        blocks,
    }
}

/// An axis, the title of its column, and a run's cell in it.
type Column = (Axis, &'static str, fn(&Experiment) -> Cell);

/// The columns of axes; of those on which runs do not differ one sentence tells.
const AXES: [Column; 8] = [
    (Axis::Part, "part", |one| short_part_name(&one.part).into()),
    (Axis::Model, "model", |one| one.model.to_string().into()),
    (Axis::Strategy, "strategy", |one| {
        one.strategy.to_string().into()
    }),
    (Axis::Setup, "set-up", |one| one.setup.to_string().into()),
    (Axis::Batch, "#batch", |one| one.batch.to_string().into()),
    (Axis::Rate, "#rate", |one| format!("{:e}", one.rate).into()),
    (Axis::Precision, "precision", |one| {
        one.precision.to_string().into()
    }),
    (Axis::Link, "link", |one| {
        Cell::maybe(one.link.as_ref().map(ToString::to_string))
    }),
];

/// The columns of results.
const RESULTS: [&str; 8] = [
    "state",
    "#s/epoch",
    "#samples/s",
    "#efficiency",
    "#accuracy",
    "#loss",
    "#memory",
    "#sent/step",
];

fn results(run: &Run, runs: &[Run]) -> Vec<Cell> {
    let one = &run.experiment;
    let summary = run.summary.as_ref();
    let alike =
        |other: &&Run| other.experiment.part == one.part && other.experiment.model == one.model;
    let slowest = runs.iter().filter(alike).filter_map(Run::seconds_per_epoch);
    let slowest = slowest.fold(f64::MIN_POSITIVE, f64::max);
    let time = match run.seconds_per_epoch() {
        Some(s) => Cell::from(seconds(s)).bar(s / slowest),
        None => Cell::maybe(None),
    };
    let peak = summary
        .map(|s| s.peak_bytes.most)
        .filter(|peak| *peak > 0.0);
    // A rank alone sends nothing.
    let sent = summary
        .map(|s| s.sent_bytes.mean)
        .filter(|sent| *sent > 0.0);
    vec![
        state(run),
        time,
        Cell::maybe(summary.map(|s| per_second(s.samples_per_s))),
        Cell::maybe(SpeedUp::of(run, runs).map(|found| percent(found.efficiency))),
        Cell::maybe(run.accuracy().map(score)),
        Cell::maybe(run.train_loss().map(score)),
        Cell::maybe(peak.map(bytes)),
        Cell::maybe(sent.map(bytes)),
    ]
}

fn state(run: &Run) -> Cell {
    match &run.status {
        Status::Finished if run.shares_cores => "shares cores".into(),
        Status::Finished if run.is_disturbed() => "finished, disturbed".into(),
        Status::Finished => Cell::from("finished").tone(Tone::Good),
        Status::Failed(_) => Cell::from("failed").tone(Tone::Bad),
        Status::Missing(None) => Cell::from("not yet run").tone(Tone::Muted),
        Status::Missing(Some(why)) => Cell::from(format!("not run: {why}")).tone(Tone::Muted),
    }
}

pub(super) fn cards(runs: &[Run]) -> Vec<Card> {
    let card = |number: String, what: String| Card { number, what };
    let finished = runs.iter().filter(|run| run.summary.is_some()).count();
    let mut cards = vec![card(
        format!("{finished} / {}", runs.len()),
        "runs finished".into(),
    )];
    let best = runs.iter().filter(|run| !run.is_disturbed());
    let best = best.filter_map(|run| Some((run, SpeedUp::of(run, runs)?)));
    if let Some((run, found)) = best.max_by(|a, b| a.1.efficiency.total_cmp(&b.1.efficiency)) {
        let one = &run.experiment;
        let what = format!(
            "best efficiency: {} on {}, batch {}",
            one.model, one.setup, one.batch
        );
        cards.push(card(percent(found.efficiency), what));
    }
    if let Some((run, share)) = memory_share(runs) {
        let one = &run.experiment;
        let what = format!(
            "of DDP's memory of a rank under FSDP: {} on {}",
            one.model, one.setup
        );
        cards.push(card(percent(share), what));
    }
    let exposed = |run: &Run| {
        let seconds = run.summary.as_ref()?.seconds;
        (seconds.step.mean > 0.0).then(|| seconds.exposed.mean / seconds.step.mean)
    };
    let most = runs.iter().filter_map(|run| Some((run, exposed(run)?)));
    if let Some((run, share)) = most.max_by(|a, b| a.1.total_cmp(&b.1)) {
        let one = &run.experiment;
        let link = one
            .link
            .as_ref()
            .map_or(String::new(), |link| format!(", {link}"));
        let what = format!(
            "of a step waiting for communication, at most: {} on {}{link}",
            one.model, one.setup
        );
        cards.push(card(percent(share), what));
    }
    if let Some((run, ratio)) = far_by_near(runs) {
        let what = format!(
            "an epoch's time over the far link by that over the near one: {}",
            run.experiment.model
        );
        cards.push(card(times(ratio), what));
    }
    cards
}

/// FSDP's peak by DDP's, of the runs on the most ranks that have both.
fn memory_share<'a>(runs: &'a [Run]) -> Option<(&'a Run, f64)> {
    let peak = |run: &Run| {
        let peak = run.summary.as_ref().map(|s| s.peak_bytes.most);
        peak.filter(|peak| *peak > 0.0)
    };
    let is = |run: &Run, name: &str| run.experiment.strategy.to_string() == name;
    let share = |run: &'a Run| {
        let twin = runs.iter().filter(|other| is(other, "ddp")).find(|ddp| {
            let alike = Experiment {
                strategy: run.experiment.strategy.clone(),
                ..ddp.experiment.clone()
            };
            alike == run.experiment
        })?;
        Some((run, peak(run)? / peak(twin)?))
    };
    let sharded = runs
        .iter()
        .filter(|run| is(run, "fsdp") && run.experiment.setup.ranks() > 1);
    // Of several on as many ranks the first.
    let shares = sharded.rev().filter_map(share);
    shares.max_by_key(|(run, _)| run.experiment.setup.ranks())
}

/// The far link's time by the near one's, of the first run that has both.
fn far_by_near(runs: &[Run]) -> Option<(&Run, f64)> {
    let is = |run: &Run, name: &str| {
        run.experiment
            .link
            .as_ref()
            .is_some_and(|l| l.label == name)
    };
    runs.iter().filter(|run| is(run, "far")).find_map(|far| {
        let near = runs.iter().find(|near| {
            is(near, "near") && near.experiment.differs_in_setup_alone(&far.experiment)
        })?;
        Some((far, far.seconds_per_epoch()? / near.seconds_per_epoch()?))
    })
}

/// What is said where other programs took a part of the machine.
fn disturbances(runs: &[Run]) -> Option<String> {
    let cores = runs
        .iter()
        .filter(|run| run.is_disturbed())
        .filter_map(|run| run.others_cores);
    let cores: Vec<_> = cores.collect();
    let most = cores.iter().copied().fold(0.0, f64::max);
    (!cores.is_empty()).then(|| {
        format!(
            "{} disturbed: other programs used up to {most:.1} cores on the mean meanwhile. Times are too long, and \
             speed-ups and efficiencies of them are wrong; losses, bytes and memory are not. Move the folders of these runs \
             away and start again on an idle machine.",
            match cores.len() {
                1 => "1 run was".into(),
                count => format!("{count} runs were"),
            }
        )
    })
}
