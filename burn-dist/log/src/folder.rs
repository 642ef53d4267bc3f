//! The folder of a run, which rank 0 writes.

use crate::event_log::EventLog;
use crate::lines::{Lines, write_whole};
use crate::{EpochRecord, Histogram, StepRecord, Summary};
use burn_dist::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Whether a folder may hold the records of an earlier start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// That is an error.
    Refused,
    /// They stay, and later ones are added.
    Continued,
}

/// The files of a run.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    steps: Lines,
    epochs: Lines,
    events: EventLog,
}

/// The columns of `epochs.csv`.
const EPOCHS: &str = "epoch,steps,train_loss,train_seconds,evaluation_seconds,samples_per_s,loss,accuracy,precision,\
                      recall,f1,macro_f1,top5,samples,best";

impl RunFolder {
    /// Makes the folder and the files in it.
    pub(crate) fn create(
        path: &Path,
        existing: Existing,
        config: &Value,
        now: f64,
    ) -> Result<Self> {
        let has_records = path.join("steps.jsonl").exists() || path.join("config.json").exists();
        if has_records && existing == Existing::Refused {
            let expected =
                "a folder without records: those of an earlier run are never overwritten";
            let found = "the records of an earlier run; choose another folder";
            return Err(Error::file(path, expected, found));
        }
        std::fs::create_dir_all(path)
            .map_err(|e| Error::file(path, "a folder for the records of a run", e))?;
        let text = format!("{config:#}");
        let folder = Self {
            events: EventLog::create(path, &text, now)?,
            steps: Lines::open(path.join("steps.jsonl"), None)?,
            epochs: Lines::open(path.join("epochs.csv"), Some(EPOCHS))?,
            path: path.into(),
        };
        folder.write_json(&folder.free("config", "json"), config)?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The name of a file that is not there yet: `config.json`, and after a restart `config-2.json`.
    fn free(&self, stem: &str, extension: &str) -> String {
        let numbered = (2..).map(|n| format!("{stem}-{n}.{extension}"));
        let mut names = std::iter::once(format!("{stem}.{extension}")).chain(numbered);
        let is_free = |name: &String| !self.path.join(name).exists();
        // There is always one more number.
        names.find(is_free).unwrap_or_else(|| stem.into())
    }

    pub(crate) fn step(&mut self, record: &StepRecord) -> Result<()> {
        self.steps.push(&self.json(record)?)?;
        self.events.step(record)
    }

    /// Histograms of units, under the name of what they count.
    pub(crate) fn histograms(
        &mut self,
        what: &str,
        (step, time): (u64, f64),
        units: &[(String, Histogram)],
    ) -> Result<()> {
        for (unit, histogram) in units {
            let tag = format!("{what}/{unit}");
            self.events.histogram(&tag, step, time, histogram)?;
        }
        Ok(())
    }

    pub(crate) fn epoch(&mut self, record: &EpochRecord, time: f64) -> Result<()> {
        self.epochs.push(&csv(record))?;
        self.events.epoch(record, time)?;
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.steps.flush()?;
        self.events.flush()?;
        self.epochs.flush()
    }

    pub(crate) fn summary(&mut self, summary: &Summary) -> Result<()> {
        self.flush()?;
        self.write_json("summary.json", summary)
    }

    /// Writes a text file beside the records.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        write_whole(&self.path.join(name), text)
    }

    fn json(&self, value: &impl Serialize) -> Result<String> {
        let refused = |e| Error::file(&self.path, "a record that JSON can hold", e);
        serde_json::to_string(value).map_err(refused)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let refused = |e| Error::file(&self.path, "a record that JSON can hold", e);
        let text = serde_json::to_string_pretty(value).map_err(refused)?;
        self.write(name, &(text + "\n"))
    }
}

/// A line of `epochs.csv`: numbers alone, so nothing needs quotes.
fn csv(record: &EpochRecord) -> String {
    let EpochRecord {
        epoch,
        steps,
        train_loss,
        train_seconds,
        evaluation_seconds,
        samples_per_s,
        ref scores,
        best,
    } = *record;
    let top5 = scores.top5.map_or(String::new(), |share| share.to_string());
    format!(
        "{epoch},{steps},{train_loss},{train_seconds},{evaluation_seconds},{samples_per_s},{},{},{},{},{},{},{top5},{},{best}",
        scores.loss,
        scores.accuracy,
        scores.precision,
        scores.recall,
        scores.f1,
        scores.macro_f1,
        scores.samples
    )
}
