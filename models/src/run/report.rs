//! The closing table: measurements beside the plan's figures.

use super::Evaluation;
use std::fmt;

/// The results of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// On the test set.
    pub evaluation: Evaluation,
    /// Training steps; without one, there is nothing to say of them.
    pub steps: usize,
    /// Training samples per second of all ranks together, evaluation and saving included.
    pub throughput: f64,
    /// The name of each part of a step, and its share of the time.
    pub time: Vec<(&'static str, f64)>,
    /// Bytes a rank sent per step: counted, and planned.
    pub sent_bytes: (f64, f64),
    /// Bytes a rank holds between steps: counted, and planned.
    pub held_bytes: (f64, f64),
    /// The most bytes of a rank: counted, and planned without activations.
    pub peak_bytes: (f64, f64),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evaluation {
            accuracy,
            loss,
            samples,
        } = self.evaluation;
        let beside = |(counted, planned): (f64, f64)| {
            format!("{:.2} MB, planned {:.2} MB", counted / 1e6, planned / 1e6)
        };
        let split: Vec<_> = self
            .time
            .iter()
            .map(|(name, share)| format!("{name} {:.0} %", 100.0 * share))
            .collect();
        let rows = [
            (
                "test accuracy",
                format!("{:.1} % of {samples} (loss {loss:.3})", 100.0 * accuracy),
            ),
            (
                "throughput",
                format!("{:.0} samples/s over all ranks", self.throughput),
            ),
            ("time", split.join(", ")),
            ("sent per rank and step", beside(self.sent_bytes)),
            ("held between steps", beside(self.held_bytes)),
            (
                "peak memory per rank",
                beside(self.peak_bytes) + " plus activations",
            ),
        ];
        let of_steps = ["throughput", "time", "sent per rank and step"];
        for (name, value) in rows {
            if self.steps == 0 && of_steps.contains(&name) {
                continue;
            }
            write!(f, "\n  {name:<24} {value}")?;
        }
        Ok(())
    }
}
