//! Progress output during training, and the closing table.

use super::results::results;
use super::{Report, Work};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_dist::comm::Op;
use burn_dist::telemetry::Phase;
use burn_dist::{
    Error, GradScaler, Plan, Result, Shadowed, ShardedGradients, Stepper, Traffic, World,
};
use burn_dist_log::{Ended, RunLog, Scores, Step};
use indicatif::{ProgressBar, ProgressStyle};
use std::cmp::Ordering;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// One rank's view of a run: its records, and on rank 0 a progress bar.
#[derive(Debug)]
pub struct Meter {
    world: World,
    plan: Plan,
    /// What is sent in a step for what owners step whole.
    owned: Traffic,
    log: RunLog,
    bar: ProgressBar,
    /// Steps since this start of the run.
    steps: usize,
    /// Bytes this rank sent in training steps, and its total when the current step began.
    sent: u64,
    mark: u64,
    /// What this rank did in the current step.
    step: Step,
    /// Whether the current step is the first of an epoch, or of the run.
    begins_epoch: bool,
    /// Steps between two lines, and the sums of loss and steps since the last one.
    every: Option<usize>,
    since: (f64, usize),
    /// The time of the evaluation that has just ended.
    evaluation: Duration,
    /// The text file that the scores of every epoch are written to.
    result_name: Option<String>,
    /// Bytes that this rank held between two steps, at the last measurement.
    held: Option<f64>,
}

impl Meter {
    /// Prints the plan, and begins; the log was made before the model is sharded.
    pub fn new(world: &World, plan: &Plan, log: RunLog) -> Self {
        if world.is_chief() {
            say(format_args!("{plan}"));
        }
        Self {
            world: world.clone(),
            plan: plan.clone(),
            owned: Traffic {
                op: Op::AllToAll,
                calls: 0,
                bytes: 0,
            },
            log,
            bar: ProgressBar::hidden(),
            steps: 0,
            sent: 0,
            mark: 0,
            step: Step::default(),
            begins_epoch: true,
            every: None,
            since: (0.0, 0),
            evaluation: Duration::ZERO,
            result_name: None,
            held: None,
        }
    }

    /// Prints what a step of parameters by their owners sends, if there are some, and counts it to what is planned.
    pub fn owners(&mut self, stepper: &Stepper) {
        self.owned = stepper.traffic();
        let owned = stepper.owners().count();
        if owned > 0 {
            let Traffic { calls, bytes, .. } = self.owned;
            self.say(format_args!(
                "  stepped whole by owners: {owned} parameters; sent by rank 0 and step for them: all_to_all x{calls} {:.2} MB",
                bytes as f64 / 1e6
            ));
        }
    }

    /// Begins the progress bar of a run of so many steps, of which `done` are done already.
    pub fn begin(&mut self, steps: usize, done: usize) {
        if self.world.is_chief() {
            self.bar = ProgressBar::new(steps as u64);
        }
        let style = "{bar:24} {pos}/{len} {elapsed}<{eta} {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.bar.set_style(style);
        }
        self.bar.set_position(done as u64);
    }

    /// Runs a part of a step and measures its time; a step begins with [`Phase::Data`].
    pub fn time<T>(&mut self, phase: Phase, f: impl FnOnce() -> T) -> T {
        if phase == Phase::Data {
            self.mark = self.sent_by_units();
        }
        self.log.time(phase, f)
    }

    /// Runs a forward pass that ends in the summed loss of some samples, and records time and loss.
    pub fn forward(&mut self, work: Work, f: impl FnOnce() -> Tensor<1>) -> Tensor<1> {
        let step = &mut self.step;
        step.samples += work.samples;
        step.tokens = match (step.tokens, work.tokens) {
            (before, None) => before,
            (before, Some(more)) => Some(before.unwrap_or(0) + more),
        };
        step.flops = Some(step.flops.unwrap_or(0.0) + work.flops);
        let (sum, value) = self.log.time(Phase::Forward, || {
            let sum = f();
            let value = sum.clone().into_scalar::<f32>();
            (sum, value)
        });
        self.step.loss_sum += f64::from(value);
        sum
    }

    /// Prints that a step agrees with one plain device.
    pub fn shadowed(&mut self, step: usize, compared: &Shadowed) {
        // The comparison is not part of the step.
        self.mark = self.sent_by_units();
        self.log.restart_step();
        let Shadowed { units, worst } = compared;
        self.say(format_args!(
            "step {step} agrees with one plain device: {units} calls of units, deviations up to \
             {worst:.1e}"
        ));
    }

    /// Records how a step's gradients are distributed, in the first step of an epoch, for they are many numbers. Collective then.
    ///
    /// # Errors
    /// Those of [`RunLog::gradients`].
    pub fn gradients(&mut self, gradients: &ShardedGradients, scaler: &GradScaler) -> Result<()> {
        if !std::mem::take(&mut self.begins_epoch) {
            return Ok(());
        }
        self.log.gradients(gradients, scaler.current_scale())
    }

    /// Records the end of a step at this learning rate, with its gradient norm, or none if an overflow made every rank skip
    /// it. Collective, as [`RunLog::step`].
    ///
    /// # Errors
    /// Those of [`RunLog::step`].
    pub fn step(&mut self, rate: f64, norm: Option<f64>) -> Result<()> {
        let step = std::mem::take(&mut self.step);
        self.sent += self.sent_by_units() - self.mark;
        let record = self.log.step(Step { rate, norm, ..step })?;
        self.steps += 1;
        self.bar.inc(1);
        let loss = record.loss.unwrap_or(f64::NAN);
        let norm = norm.map_or("overflow".into(), |norm| format!("{norm:.2}"));
        self.bar.set_message(format!(
            "loss {loss:.3} |g| {norm} {:.0} samples/s {:.0} MB/rank",
            record.samples_per_s,
            record.memory_bytes.mean / 1e6
        ));
        self.since = (self.since.0 + loss, self.since.1 + 1);
        if self.every.is_some_and(|every| self.since.1 >= every) {
            let (sum, steps) = std::mem::take(&mut self.since);
            self.say(format_args!(
                "step {}: loss {:.4}, rate {rate:.2e}, |g| {norm}, {:.0} samples/s",
                record.step,
                sum / steps as f64,
                record.samples_per_s
            ));
        }
        Ok(())
    }

    /// Prints a line after every so many steps too.
    pub fn lines_every(&mut self, steps: Option<usize>) {
        self.every = steps;
    }

    /// Writes the scores of every epoch to a text file of this name too.
    pub fn results_in(&mut self, name: String) {
        self.result_name = Some(name);
    }

    /// Measures what a rank holds between two steps. Call it where no batch and no gradient is left.
    /// Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn between_steps(&mut self) -> Result<()> {
        self.held = Some(self.log.memory().at_rest()?);
        Ok(())
    }

    /// Notes that the run resumes from a save, and prints so.
    pub fn resumed(&mut self, step: usize, epochs: usize, folder: &Path) {
        self.log.resumed(step as u64, epochs as u64);
        if self.world.is_chief() {
            say(format_args!(
                "going on from step {step}, saved in {}",
                folder.display()
            ));
        }
    }

    /// Prints that the run ends early, after this step.
    ///
    /// # Errors
    /// [`Error::File`] if the records cannot be written.
    pub fn stop(&mut self, step: usize, saved: Option<&Path>) -> Result<()> {
        self.bar.abandon();
        self.log.finish(Ended::Stopped, None)?;
        if self.world.is_chief() {
            match saved {
                Some(folder) => say(format_args!(
                    "told to end: saved step {step} to {}",
                    folder.display()
                )),
                None => say(format_args!(
                    "told to end after step {step}; without --save nothing is kept"
                )),
            }
        }
        Ok(())
    }

    /// Runs an evaluation, and measures its time.
    pub fn evaluation<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = f();
        self.evaluation = start.elapsed();
        result
    }

    /// Records an epoch, whose model was scored on the set of this name, and prints its line above the bar. Collective.
    ///
    /// # Errors
    /// Those of [`RunLog::parameters`].
    pub fn epoch<M: Module>(
        &mut self,
        set: &str,
        scores: &Scores,
        best: bool,
        model: &M,
    ) -> Result<()> {
        self.log.parameters(model)?;
        self.begins_epoch = true;
        let record = self.log.epoch(*scores, self.evaluation, best)?;
        if let Some(name) = &self.result_name {
            self.log.write(name, &results(self.log.epochs()))?;
        }
        let accuracy = 100.0 * scores.accuracy;
        self.say(format_args!(
            "epoch {}: {set} accuracy {accuracy:.1} %, train loss {:.3}",
            record.epoch, record.train_loss
        ));
        Ok(())
    }

    /// Prints that training ends because epochs no longer become better.
    pub fn stopped_early(&self, patience: Option<usize>) {
        let patience = patience.unwrap_or_default();
        self.say(format_args!(
            "stopping early: no better epoch in the last {patience}"
        ));
    }

    /// Writes a line above the bar.
    fn say(&self, line: std::fmt::Arguments<'_>) {
        if self.world.is_chief() {
            if self.bar.is_hidden() {
                say(line)
            } else {
                self.bar.println(line.to_string())
            }
        }
    }

    /// Removes the bar, ends the records, prints the closing table on rank 0, and returns it.
    ///
    /// # Errors
    /// [`Error::User`] if the training loss of the last epoch is not below that of the first, or not a
    /// number; [`Error::File`] if the records cannot be written.
    pub fn finish(mut self, scores: Scores, micro_batches: usize) -> Result<Report> {
        self.bar.finish_and_clear();
        let (memory, (now, peak)) = (self.plan.memory(), self.log.memory().bytes());
        let sent: usize = self
            .plan
            .traffic(micro_batches)
            .iter()
            .map(|t| t.bytes)
            .sum();
        let sent = sent + self.owned.bytes;
        let report = Report {
            scores,
            sent_bytes: (self.sent as f64 / self.steps.max(1) as f64, sent as f64),
            held_bytes: (
                self.held.unwrap_or(now),
                (memory.parameters + memory.optimizer + memory.average) as f64,
            ),
            peak_bytes: (peak, memory.total() as f64),
            summary: self.log.finish(Ended::Finished, Some(scores))?,
            folder: self.log.folder().map(Path::to_path_buf),
        };
        if self.world.is_chief() {
            say(format_args!("{report}"));
        }
        let losses: Vec<f64> = self.log.epochs().iter().map(|e| e.train_loss).collect();
        match losses.as_slice() {
            // A loss that is not a number has not fallen.
            [first, .., last] if last.partial_cmp(first) != Some(Ordering::Less) => {
                Err(Error::user(format!(
                    "the training loss did not fall: {first:.3} to {last:.3}"
                )))
            }
            [only] if !only.is_finite() => Err(Error::user(format!("the training loss is {only}"))),
            _ => Ok(report),
        }
    }

    /// Only the traffic of units, and of what owners step: evaluation sums and progress are not part of the plan, nor is it
    /// that owners fetch parameters once.
    fn sent_by_units(&self) -> u64 {
        let is_unit = |name: &str| self.plan.units().iter().any(|u| &*u.name == name);
        let entries = self.world.ledger().entries();
        let is_owned = |op: Op, name: &str| op == Op::AllToAll && name != "parameters";
        let units = entries.iter();
        let units = units.filter(|(op, name, _)| is_unit(name) || is_owned(*op, name));
        units.map(|(.., entry)| entry.bytes).sum()
    }
}

/// Runs a matrix product on every thread that may make one, so that the working memory that kernels keep for each of
/// them is not counted as the model's.
pub(super) fn warm_up(world: &World) {
    let device = world.device().inner();
    if device != Device::flex() {
        return;
    }
    let product = || {
        let x = Tensor::<2>::ones([256, 256], &device);
        drop(x.clone().matmul(x).into_data());
    };
    rayon::broadcast(|_| product());
    product();
}

/// Prints a line; an error, such as a closed pipe, is ignored.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
