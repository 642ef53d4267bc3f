//! The records of a run as events of TensorBoard.

use crate::{EpochRecord, EventWriter, Histogram, OverRanks, StepRecord};
use burn_dist::{Error, Result};
use std::io;
use std::path::Path;

/// The event file of a run.
#[derive(Debug)]
pub(crate) struct EventLog {
    writer: EventWriter,
}

impl EventLog {
    /// Begins a file in the folder of a run, with its configuration as a text.
    pub(crate) fn create(folder: &Path, config: &str, time: f64) -> Result<Self> {
        let writer = EventWriter::create(folder);
        let writer = writer.map_err(|e| Error::file(folder, "an event file for TensorBoard", e))?;
        let mut log = Self { writer };
        let text = format!("```json\n{config}\n```");
        log.tell(|writer| {
            writer.text("config", 0, time, &text)?;
            writer.flush()
        })?;
        Ok(log)
    }

    /// What a step has come to, by step.
    pub(crate) fn step(&mut self, record: &StepRecord) -> Result<()> {
        let mean = |over: &OverRanks| Some(over.mean);
        let seconds = &record.seconds;
        let scalars = [
            ("train/loss", Some(record.loss.unwrap_or(f64::NAN))),
            ("train/rate", Some(record.rate)),
            ("train/gradient_norm", record.norm),
            ("throughput/samples_per_s", Some(record.samples_per_s)),
            ("throughput/tokens_per_s", record.tokens_per_s),
            ("seconds/step", Some(seconds.step.most)),
            ("seconds/data", mean(&seconds.data)),
            ("seconds/forward", mean(&seconds.forward)),
            ("seconds/backward", mean(&seconds.backward)),
            ("seconds/optimizer", mean(&seconds.optimizer)),
            ("seconds/exposed_communication", mean(&seconds.exposed)),
            ("seconds/hidden_communication", mean(&seconds.hidden)),
            ("bytes/sent", mean(&record.sent_bytes)),
            ("bytes/memory", Some(record.memory_bytes.most)),
            ("bytes/peak", Some(record.peak_bytes.most)),
        ];
        self.scalars(record.step, record.time, &scalars)
    }

    /// The scores of an epoch, by the step that ends it.
    pub(crate) fn epoch(&mut self, record: &EpochRecord, time: f64) -> Result<()> {
        let scores = &record.scores;
        let scalars = [
            ("epoch/train_loss", Some(record.train_loss)),
            ("epoch/loss", Some(scores.loss)),
            ("epoch/accuracy", Some(scores.accuracy)),
            ("epoch/precision", Some(scores.precision)),
            ("epoch/recall", Some(scores.recall)),
            ("epoch/f1", Some(scores.f1)),
            ("epoch/macro_f1", Some(scores.macro_f1)),
            ("epoch/top5", scores.top5),
            ("epoch/train_seconds", Some(record.train_seconds)),
        ];
        self.scalars(record.steps, time, &scalars)?;
        self.tell(EventWriter::flush)
    }

    fn scalars(&mut self, step: u64, time: f64, scalars: &[(&str, Option<f64>)]) -> Result<()> {
        self.tell(|writer| {
            let mut there = scalars
                .iter()
                .filter_map(|(tag, value)| Some((tag, (*value)?)));
            there.try_for_each(|(tag, value)| writer.scalar(tag, step, time, value))
        })
    }

    /// A histogram of a unit, such as `parameters/blocks.0`.
    pub(crate) fn histogram(
        &mut self,
        tag: &str,
        step: u64,
        time: f64,
        histogram: &Histogram,
    ) -> Result<()> {
        self.tell(|writer| writer.histogram(tag, step, time, histogram))
    }

    /// Writes what waits.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.tell(EventWriter::flush)
    }

    fn tell(&mut self, tell: impl FnOnce(&mut EventWriter) -> io::Result<()>) -> Result<()> {
        let told = tell(&mut self.writer);
        told.map_err(|e| Error::file(self.writer.path(), "an event to be written", e))
    }
}
