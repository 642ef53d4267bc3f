//! Study B's three experiments beside their repetition here.

use super::super::chart::{Group, Grouped, series};
use super::super::document::{Block, Cell, Figure, Figures, Section, Table};
use super::super::numbers::{exact_percent, percent, score, seconds, times};
use super::of_runs::commands_of;
use crate::Result;
use crate::published::{
    STUDY_B, STUDY_B_ACCURACIES, STUDY_B_HARDWARE, STUDY_B_LINKS, study_b_epochs,
};
use crate::results::{Run, SpeedUp};

/// The batches that the study varied.
const BATCHES: [usize; 3] = [1, 4, 16];

pub(super) fn sections(runs: &[Run]) -> Result<Vec<Section>> {
    let all = [batches(runs)?, rates(runs), links(runs)];
    Ok(all.into_iter().flatten().collect())
}

/// The finished runs of a part.
fn of_part<'a>(runs: &'a [Run], part: &str) -> Vec<&'a Run> {
    let is_it = |run: &&Run| run.experiment.part == part && run.summary.is_some();
    runs.iter().filter(is_it).collect()
}

/// Experiment 1.
fn batches(runs: &[Run]) -> Result<Option<Section>> {
    let ours = of_part(runs, "b1");
    if ours.is_empty() {
        return Ok(None);
    }
    let mut table = Table::new(
        "Speed-up and efficiency are relative to 1_1 at the same batch of a rank.",
        &[
            "whose",
            "#batch",
            "set-up",
            "#s/epoch",
            "#speed-up",
            "#efficiency",
        ],
    );
    for batch in BATCHES {
        for row in study_b_epochs(batch) {
            let is_baseline = row.setup == "1_1";
            table.published(vec![
                "published".into(),
                batch.to_string().into(),
                row.setup.into(),
                seconds(row.seconds).into(),
                Cell::maybe((!is_baseline).then(|| times(row.speed_up))),
                Cell::maybe((!is_baseline).then(|| exact_percent(row.efficiency))),
            ]);
        }
        for run in ours.iter().filter(|run| run.experiment.batch == batch) {
            let found = SpeedUp::of(run, runs);
            let efficiency = match found {
                Some(found) => Cell::from(exact_percent(found.efficiency)),
                None if run.shares_cores => "shares cores".into(),
                None => Cell::maybe(None),
            };
            table.row(vec![
                "here".into(),
                batch.to_string().into(),
                run.experiment.setup.to_string().into(),
                Cell::maybe(run.seconds_per_epoch().map(seconds)),
                Cell::maybe(found.map(|found| times(found.times))),
                efficiency,
            ]);
        }
    }
    let text = format!(
        "Published: {STUDY_B}, on {STUDY_B_HARDWARE}. More ranks help the less, the smaller the batch is, as every step \
         sends the same bytes however few samples it is of."
    );
    let mut blocks = vec![Block::Text(text)];
    blocks.extend(efficiency_figure(&ours, runs)?.map(Block::Figures));
    blocks.push(Block::Table(table));
    Ok(Some(Section {
        id: "study-b-1",
        title: "Study B, experiment 1: set-ups and batches".into(),
        blocks,
    }))
}

/// Efficiencies here beside the published ones.
fn efficiency_figure(ours: &[&Run], runs: &[Run]) -> Result<Option<Figures>> {
    let mut groups: Vec<Group> = Vec::new();
    for run in ours {
        let Some(found) = SpeedUp::of(run, runs) else {
            continue;
        };
        let label = format!("{} here", run.experiment.setup);
        let known = groups.iter().position(|group| group.label == label);
        let at = known.unwrap_or_else(|| {
            groups.push(Group {
                label,
                values: vec![None; BATCHES.len()],
                is_published: false,
            });
            groups.len() - 1
        });
        let column = BATCHES
            .iter()
            .position(|batch| *batch == run.experiment.batch);
        if let (Some(group), Some(column)) = (groups.get_mut(at), column)
            && let Some(value) = group.values.get_mut(column)
        {
            *value = Some(100.0 * found.efficiency);
        }
    }
    if groups.is_empty() {
        return Ok(None);
    }
    for setup in ["1_4", "2_2"] {
        let value = |batch: usize| {
            let rows = study_b_epochs(batch);
            let row = rows.iter().find(|row| row.setup == setup)?;
            Some(100.0 * row.efficiency)
        };
        groups.push(Group {
            label: format!("{setup} published, on GPUs"),
            values: BATCHES.map(value).into(),
            is_published: true,
        });
    }
    let named = |(n, batch): (usize, &usize)| (format!("batch {batch}"), series(n));
    let chart = Grouped {
        series: BATCHES.iter().enumerate().map(named).collect(),
        groups,
        axis: "efficiency in percent".into(),
        decimals: 1,
    };
    let name = "efficiency_b1".to_owned();
    Ok(Some(Figures {
        figures: vec![Figure {
            alt: "Efficiency by set-up and batch, here and as published".into(),
            svg: chart.draw(&name)?,
            name,
            follows_page: true,
        }],
        caption: format!(
            "Efficiency by batch of a rank. Filled bars are from here, outlined ones are published ({STUDY_B_HARDWARE})."
        ),
        commands: commands_of(ours),
    }))
}

/// Experiment 2.
fn rates(runs: &[Run]) -> Option<Section> {
    let ours = of_part(runs, "b2");
    if ours.is_empty() {
        return None;
    }
    let mut table = Table::new(
        "Published ranges are over the set-ups 1_1, 1_4 and 2_2 and the rates 2e-4 and 2e-5, of pretrained models.",
        &[
            "whose",
            "model",
            "set-up",
            "#rate",
            "#after 2 epochs",
            "#after the last",
            "epochs",
        ],
    );
    for (model, _, least, most) in STUDY_B_ACCURACIES.iter().filter(|row| row.1.contains('2')) {
        let last = STUDY_B_ACCURACIES
            .iter()
            .find(|row| row.0 == *model && row.1.contains('5'));
        table.published(vec![
            "published".into(),
            (*model).into(),
            "1_1, 1_4, 2_2".into(),
            "2e-4, 2e-5".into(),
            format!("{least} to {most}").into(),
            Cell::maybe(last.map(|(_, _, least, most)| format!("{least:.2} to {most}"))),
            "5".into(),
        ]);
    }
    for run in &ours {
        let one = &run.experiment;
        let after = |epochs: usize| {
            run.epochs()
                .get(epochs.checked_sub(1)?)
                .map(|e| score(e.scores.accuracy))
        };
        table.row(vec![
            "here".into(),
            one.model.to_string().into(),
            one.setup.to_string().into(),
            format!("{:e}", one.rate).into(),
            Cell::maybe(after(2)),
            Cell::maybe(after(run.epochs().len())),
            run.epochs().len().to_string().into(),
        ]);
    }
    let text = format!(
        "Published: {STUDY_B}. Accuracy on the test set by learning rate and set-up. At one batch of a rank, more ranks take \
         fewer and larger steps, so that set-ups of two ranks learn alike and one rank otherwise; the study's pretrained \
         models forgive that, small ones from nothing do not."
    );
    Some(Section {
        id: "study-b-2",
        title: "Study B, experiment 2: learning rates".into(),
        blocks: vec![Block::Text(text), Block::Table(table)],
    })
}

/// Experiment 3.
fn links(runs: &[Run]) -> Option<Section> {
    let ours = of_part(runs, "b3");
    if ours.is_empty() {
        return None;
    }
    let mut table = Table::new(
        "By near's is the time by that of the same model over the near link. The study's near pair of its ViT had other GPUs than \
         the far one.",
        &[
            "whose",
            "model",
            "link",
            "#s/epoch",
            "#by near's",
            "#exposed",
            "#evaluation",
            "hardware",
        ],
    );
    for (model, link, hardware, time, ratio) in STUDY_B_LINKS {
        table.published(vec![
            "published".into(),
            model.into(),
            link.into(),
            seconds(time).into(),
            Cell::maybe(ratio.map(times)),
            Cell::maybe(None),
            Cell::maybe(None),
            hardware.into(),
        ]);
    }
    for run in &ours {
        let one = &run.experiment;
        let label = |run: &Run| run.experiment.link.as_ref().map(|link| link.label.clone());
        let near = ours.iter().find(|near| {
            label(near).as_deref() == Some("near") && near.experiment.differs_in_setup_alone(one)
        });
        let ratio =
            near.and_then(|near| Some(run.seconds_per_epoch()? / near.seconds_per_epoch()?));
        let ratio = ratio.filter(|_| label(run).as_deref() != Some("near"));
        let times_of = run.summary.as_ref().map(|s| s.seconds);
        let exposed = times_of
            .filter(|t| t.step.mean > 0.0)
            .map(|t| t.exposed.mean / t.step.mean);
        let shape = one
            .link
            .as_ref()
            .map(|link| match link.label == link.shape {
                same if same => link.shape.clone(),
                _ => format!("{} ({})", link.label, link.shape),
            });
        table.row(vec![
            "here".into(),
            one.model.to_string().into(),
            Cell::maybe(shape),
            Cell::maybe(run.seconds_per_epoch().map(seconds)),
            Cell::maybe(ratio.map(times)),
            Cell::maybe(exposed.map(percent)),
            Cell::maybe(run.evaluation_seconds().map(seconds)),
            "this machine".into(),
        ]);
    }
    let text = format!(
        "Published: {STUDY_B}, experiment 3. Two nodes of one rank each. There the far pair was slower in evaluation too, so \
         the network alone did not explain its time; here the link is shaped on one machine, and nothing else differs: \
         evaluation, which sends next to nothing, takes as long over either."
    );
    Some(Section {
        id: "study-b-3",
        title: "Study B, experiment 3: near and far".into(),
        blocks: vec![Block::Text(text), Block::Table(table)],
    })
}
