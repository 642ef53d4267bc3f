//! The closing table: what was measured, beside what the plan said.

use super::Evaluation;
use burn_dist::comm::Ledger;
use burn_dist::telemetry::{Phase, Phases};
use burn_dist::{Plan, Result, World};
use std::fmt;

/// A run, in the numbers one compares runs by.
#[derive(Debug, Clone)]
pub struct Report {
    /// On the test set.
    pub evaluation: Evaluation,
    /// The mean training loss of the last epoch.
    pub loss: f64,
    /// Training samples per second of all ranks together.
    pub throughput: f64,
    /// Name and share of the time, for each part of a step.
    pub time: Vec<(&'static str, f64)>,
    /// What a rank sent per step: counted, and as planned.
    pub sent_bytes: (f64, f64),
    /// The most memory of a rank above its start: counted, and planned without activations.
    pub peak_bytes: (f64, f64),
}

impl Report {
    /// The traffic so far, to take the difference of.
    pub fn sent(ledger: &Ledger, units: &Plan) -> u64 {
        // Only the units' traffic: evaluation and progress are not part of the plan.
        let entries = ledger.entries();
        let is_unit = |name: &str| units.units().iter().any(|u| &*u.name == name);
        entries
            .iter()
            .filter(|(_, name, _)| is_unit(name))
            .map(|(.., e)| e.bytes)
            .sum()
    }

    /// How a rank's time divided.
    pub fn split(phases: &Phases) -> Vec<(&'static str, f64)> {
        let total = phases.total().as_secs_f64().max(1e-9);
        let share = |name, phase| (name, phases.of(phase).as_secs_f64() / total);
        vec![
            share("forward", Phase::Forward),
            share("backward", Phase::Backward),
            (
                "exposed communication",
                phases.exposed().as_secs_f64() / total,
            ),
            share("optimizer", Phase::Optimizer),
            share("data", Phase::Data),
        ]
    }

    /// What the plan says a rank sends in a step, and holds at the worst moment.
    pub fn planned(plan: &Plan, micro_batches: usize) -> (f64, f64) {
        let sent: usize = plan.traffic(micro_batches).iter().map(|t| t.bytes).sum();
        (sent as f64, plan.memory().total() as f64)
    }

    /// Prints it on rank 0.
    ///
    /// # Errors
    /// None today; a report that goes elsewhere may fail.
    pub fn print(&self, world: &World) -> Result<()> {
        if world.is_chief() {
            println!("{self}");
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evaluation {
            accuracy,
            loss,
            samples,
        } = self.evaluation;
        let mb = |bytes: f64| format!("{:.2} MB", bytes / 1e6);
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| {
            writeln!(f, "  {name:<24} {value}")
        };
        writeln!(f)?;
        row(
            f,
            "test accuracy",
            format!("{:.1} % of {samples} (loss {loss:.3})", 100.0 * accuracy),
        )?;
        row(
            f,
            "throughput",
            format!("{:.0} samples/s over all ranks", self.throughput),
        )?;
        let split: Vec<_> = self
            .time
            .iter()
            .map(|(n, s)| format!("{n} {:.0} %", 100.0 * s))
            .collect();
        row(f, "time", split.join(", "))?;
        let (sent, planned) = self.sent_bytes;
        row(
            f,
            "sent per rank and step",
            format!("{}, planned {}", mb(sent), mb(planned)),
        )?;
        let (peak, planned) = self.peak_bytes;
        let planned = format!("planned {} plus activations", mb(planned));
        write!(
            f,
            "  {:<24} {}, {planned}",
            "peak memory per rank",
            mb(peak)
        )
    }
}
