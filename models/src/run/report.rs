//! The closing table: measurements beside the plan's figures.

use burn_dist_log::{Scores, Summary};
use std::fmt;
use std::path::PathBuf;

/// The results of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// On the test set.
    pub scores: Scores,
    /// The records in one.
    pub summary: Summary,
    /// Their folder, on rank 0 of a run that is recorded.
    pub folder: Option<PathBuf>,
    /// Bytes a rank sent per step: counted, and planned.
    pub sent_bytes: (f64, f64),
    /// Bytes a rank holds between steps: counted, and planned.
    pub held_bytes: (f64, f64),
    /// The most bytes of a rank: counted, and planned without activations.
    pub peak_bytes: (f64, f64),
}

impl Report {
    /// The share of each part of the mean step, over all ranks.
    pub fn time(&self) -> Vec<(&'static str, f64)> {
        let seconds = &self.summary.seconds;
        let parts = [
            ("forward", seconds.forward.mean),
            ("backward", seconds.backward.mean),
            ("exposed communication", seconds.exposed.mean),
            ("optimizer", seconds.optimizer.mean),
            ("data", seconds.data.mean),
        ];
        let total: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let share = |(name, seconds)| (name, seconds / total.max(1e-9));
        parts.map(share).into()
    }

    fn speed(&self) -> String {
        let Summary {
            samples_per_s,
            tokens_per_s,
            tflops,
            mfu,
            ..
        } = &self.summary;
        let mut text = format!("{samples_per_s:.0} samples/s over all ranks");
        if let Some(tokens) = tokens_per_s {
            text += &format!(", {tokens:.0} tokens/s");
        }
        if let Some(tflops) = tflops {
            text += &format!(", {tflops:.3} TFLOP/s");
        }
        if let Some(mfu) = mfu {
            text += &format!(" (MFU {:.0} %)", 100.0 * mfu);
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scores {
            samples,
            loss,
            accuracy,
            precision,
            recall,
            f1,
            top5,
            ..
        } = self.scores;
        let beside = |(counted, planned): (f64, f64)| {
            format!("{:.2} MB, planned {:.2} MB", counted / 1e6, planned / 1e6)
        };
        let split: Vec<_> = self
            .time()
            .iter()
            .map(|(name, share)| format!("{name} {:.0} %", 100.0 * share))
            .collect();
        let top5 = top5.map_or(String::new(), |top5| {
            format!(", top-5 {:.1} %", 100.0 * top5)
        });
        let mut rows = vec![
            (
                "test accuracy",
                format!("{:.1} % of {samples} (loss {loss:.3})", 100.0 * accuracy),
            ),
            (
                "test scores",
                format!("F1 {f1:.3}, precision {precision:.3}, recall {recall:.3}{top5}"),
            ),
        ];
        if self.summary.samples_per_s > 0.0 {
            rows.push(("throughput", self.speed()));
            rows.push(("time", split.join(", ")));
            rows.push(("sent per rank and step", beside(self.sent_bytes)));
        }
        if let Some(seconds) = self.summary.seconds_per_epoch {
            rows.push(("training of an epoch", format!("{seconds:.2} s")));
        }
        for straggler in &self.summary.stragglers {
            rows.push(("straggler", straggler.to_string()));
        }
        rows.push(("held between steps", beside(self.held_bytes)));
        rows.push((
            "peak memory per rank",
            beside(self.peak_bytes) + " plus activations",
        ));
        if let Some(folder) = &self.folder {
            rows.push(("records", folder.display().to_string()));
        }
        for (name, value) in rows {
            write!(f, "\n  {name:<24} {value}")?;
        }
        Ok(())
    }
}
