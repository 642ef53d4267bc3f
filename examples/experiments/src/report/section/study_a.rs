//! Study A beside its repetition here.

use super::super::document::{Block, Cell, Section, Table};
use super::super::numbers::{bytes, score, seconds, times};
use crate::published::{STUDY_A, STUDY_A_RUNS};
use crate::results::Run;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let ours: Vec<_> = runs
        .iter()
        .filter(|run| run.experiment.part == "a" && run.summary.is_some())
        .collect();
    if ours.is_empty() {
        return None;
    }
    let mut table = Table::new(
        "The study's times are lengths on its plot of GPU utilisation, in the plot's units; ours are seconds of the epoch. Its \
         accuracies are of training samples and read off plots (2 % either way), ours are of the whole test set, on all \
         ranks. It never showed memory.",
        &[
            "whose",
            "strategy",
            "set-up",
            "#batch",
            "#time",
            "#by DDP's",
            "#accuracy",
            "#train loss",
            "#memory of a rank",
            "hardware",
        ],
    );
    for row in STUDY_A_RUNS {
        let ddp = STUDY_A_RUNS
            .iter()
            .find(|other| other.strategy == "ddp" && other.setup == row.setup);
        let ratio = ddp
            .and_then(|ddp| Some(row.units? / ddp.units?))
            .filter(|_| row.strategy != "ddp");
        table.published(vec![
            "published".into(),
            row.strategy.into(),
            row.setup.into(),
            row.batch.to_string().into(),
            Cell::maybe(row.units.map(|units| format!("{units:.0} units"))),
            Cell::maybe(ratio.map(times)),
            score(row.accuracy).into(),
            row.loss.into(),
            Cell::maybe(None),
            row.hardware.into(),
        ]);
    }
    for run in &ours {
        let one = &run.experiment;
        let ddp = ours.iter().find(|other| {
            other.experiment.strategy.to_string() == "ddp" && other.experiment.setup == one.setup
        });
        let ratio = ddp.and_then(|ddp| Some(run.seconds_per_epoch()? / ddp.seconds_per_epoch()?));
        let ratio = ratio.filter(|_| one.strategy.to_string() != "ddp");
        let peak = run
            .summary
            .as_ref()
            .map(|s| s.peak_bytes.most)
            .filter(|peak| *peak > 0.0);
        table.row(vec![
            "here".into(),
            one.strategy.to_string().into(),
            one.setup.to_string().into(),
            one.batch.to_string().into(),
            Cell::maybe(run.seconds_per_epoch().map(seconds)),
            Cell::maybe(ratio.map(times)),
            Cell::maybe(run.accuracy().map(score)),
            Cell::maybe(run.train_loss().map(score)),
            Cell::maybe(peak.map(bytes)),
            format!("{} on this machine", one.model).into(),
        ]);
    }
    let text = format!(
        "Published: {STUDY_A}. There FSDP learned worse than DDP in both set-ups, as clipping was off under it alone, and \
         two nodes could not test together. Here both strategies clip by the norm of the whole model and all ranks test, \
         so losses of DDP and FSDP are those of one and the same training up to rounding."
    );
    Some(Section {
        id: "study-a",
        title: "Study A: DDP and FSDP".into(),
        blocks: vec![Block::Text(text), Block::Table(table)],
    })
}
