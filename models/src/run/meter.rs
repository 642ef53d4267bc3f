//! Progress output during training, and the measurements of the closing table.

use super::{Evaluation, Report};
use burn::tensor::{Device, Tensor};
use burn_dist::telemetry::{Phase, Phases, live_bytes, peak_bytes, reset_peak};
use burn_dist::{Error, Plan, Result, Shadowed, World};
use indicatif::{ProgressBar, ProgressStyle};
use std::cmp::Ordering;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// One rank's measurements; rank 0 also shows a progress bar.
#[derive(Debug)]
pub struct Meter {
    world: World,
    plan: Plan,
    bar: ProgressBar,
    phases: Phases,
    /// Bytes the process held before the model was made.
    start_bytes: usize,
    started: Instant,
    /// Steps and samples of all ranks since the start.
    steps: usize,
    samples: usize,
    /// Bytes this rank sent in training steps, and its total when the current step began.
    sent: u64,
    mark: u64,
    /// The sum of losses and of samples of this rank in the current step.
    step: (f64, usize),
    /// The sum of losses and of samples since the last epoch, and the means of those before.
    epoch: (f64, f64),
    losses: Vec<f64>,
    /// Bytes that this rank held between two steps, at the last measurement.
    held: Option<f64>,
}

impl Meter {
    /// Starts to measure memory; call it before the model is sharded. Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn new(world: &World, plan: &Plan) -> Result<Self> {
        let start = "start".into();
        warm_up(world);
        // Ranks may share a process, so the counter is set when none of them has begun.
        world.comm().barrier(&start)?;
        let start_bytes = reset_peak();
        world.comm().barrier(&start)?;
        if world.is_chief() {
            say(format_args!("{plan}"));
        }
        Ok(Self {
            world: world.clone(),
            plan: plan.clone(),
            bar: ProgressBar::hidden(),
            phases: Phases::new(world),
            start_bytes,
            started: Instant::now(),
            steps: 0,
            samples: 0,
            sent: 0,
            mark: 0,
            step: (0.0, 0),
            epoch: (0.0, 0.0),
            losses: Vec::new(),
            held: None,
        })
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
        self.started = Instant::now();
    }

    /// Runs a part of a step and measures its time; a step begins with [`Phase::Data`].
    pub fn time<T>(&mut self, phase: Phase, f: impl FnOnce() -> T) -> T {
        if phase == Phase::Data {
            self.mark = self.sent_by_units();
        }
        self.phases.time(phase, f)
    }

    /// Runs a forward pass that ends in the summed loss of so many samples, and records time and loss.
    pub fn forward(&mut self, samples: usize, f: impl FnOnce() -> Tensor<1>) -> Tensor<1> {
        let sum = self.time(Phase::Forward, f);
        self.step.0 += f64::from(sum.clone().into_scalar::<f32>());
        self.step.1 += samples;
        sum
    }

    /// Prints that a step agrees with one plain device.
    pub fn shadowed(&mut self, step: usize, compared: &Shadowed) {
        // The comparison's traffic is not part of the step.
        self.mark = self.sent_by_units();
        let Shadowed { units, worst } = compared;
        self.say(format_args!(
            "step {step} agrees with one plain device: {units} calls of units, deviations up to \
             {worst:.1e}"
        ));
    }

    /// Records the end of a step, with its gradient norm, or none if an overflow made every rank skip it.
    /// Collective: one all-reduce of 16 bytes.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn step(&mut self, norm: Option<f64>) -> Result<()> {
        let (loss, samples) = std::mem::take(&mut self.step);
        self.sent += self.sent_by_units() - self.mark;
        let [loss, samples] = self.world.sum([loss, samples as f64])?;
        self.steps += 1;
        self.samples += samples as usize;
        self.epoch = (self.epoch.0 + loss, self.epoch.1 + samples);
        self.bar.inc(1);
        let norm = norm.map_or("overflow".into(), |norm| format!("{norm:.2}"));
        self.bar.set_message(format!(
            "loss {:.3} |g| {norm} {:.0} samples/s {:.0} MB/rank",
            loss / samples,
            self.throughput(),
            self.memory().0 / 1e6
        ));
        Ok(())
    }

    /// Measures what a rank holds between two steps. Call it where no batch and no gradient is left.
    /// Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn between_steps(&mut self) -> Result<()> {
        // Ranks may share a process, so all of them wait here while it is read.
        let here = "between steps".into();
        self.world.comm().barrier(&here)?;
        self.held = Some(self.memory().0);
        self.world.comm().barrier(&here)
    }

    /// Prints that the run resumes from a save.
    pub fn resumed(&self, step: usize, folder: &Path) {
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
    /// None; it is what a run returns.
    pub fn stop(&self, step: usize, saved: Option<&Path>) -> Result<()> {
        self.bar.abandon();
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

    /// Prints the line of an epoch above the bar.
    pub fn epoch(&mut self, number: usize, score: &Evaluation) {
        let (loss, samples) = std::mem::take(&mut self.epoch);
        let loss = loss / samples.max(1.0);
        self.losses.push(loss);
        let accuracy = 100.0 * score.accuracy;
        self.say(format_args!(
            "epoch {number}: test accuracy {accuracy:.1} %, train loss {loss:.3}"
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

    /// Removes the bar, prints the closing table on rank 0, and returns it.
    ///
    /// # Errors
    /// [`Error::User`] if the training loss of the last epoch is not below that of the first, or not a
    /// number.
    pub fn finish(self, evaluation: Evaluation, micro_batches: usize) -> Result<Report> {
        self.bar.finish_and_clear();
        let (memory, (now, peak)) = (self.plan.memory(), self.memory());
        let sent: usize = self
            .plan
            .traffic(micro_batches)
            .iter()
            .map(|t| t.bytes)
            .sum();
        let report = Report {
            evaluation,
            steps: self.steps,
            throughput: self.throughput(),
            time: split(&self.phases),
            sent_bytes: (self.sent as f64 / self.steps.max(1) as f64, sent as f64),
            held_bytes: (
                self.held.unwrap_or(now),
                (memory.parameters + memory.optimizer) as f64,
            ),
            peak_bytes: (peak, memory.total() as f64),
        };
        if self.world.is_chief() {
            say(format_args!("{report}"));
        }
        match self.losses.as_slice() {
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

    /// Samples per second of all ranks together.
    fn throughput(&self) -> f64 {
        let seconds = self
            .started
            .elapsed()
            .max(Duration::from_millis(1))
            .as_secs_f64();
        self.samples as f64 / seconds
    }

    /// Bytes that a rank holds, and the most that it held.
    fn memory(&self) -> (f64, f64) {
        // Of the whole GPU, for all ranks on it. Its allocator hardly frees memory, so what it has reserved is the
        // peak.
        if let Some(usage) = self.world.device().memory_pool_usage() {
            return (usage.bytes_in_use as f64, usage.bytes_reserved as f64);
        }
        let ranks = self.world.ranks_here() as f64;
        let per_rank = |bytes: usize| bytes.saturating_sub(self.start_bytes) as f64 / ranks;
        (per_rank(live_bytes()), per_rank(peak_bytes()))
    }

    /// Only the units' traffic: evaluation sums and progress are not part of the plan.
    fn sent_by_units(&self) -> u64 {
        let is_unit = |name: &str| self.plan.units().iter().any(|u| &*u.name == name);
        let entries = self.world.ledger().entries();
        let units = entries.iter().filter(|(_, name, _)| is_unit(name));
        units.map(|(.., entry)| entry.bytes).sum()
    }
}

/// Runs a matrix product on every thread that may make one, so that the working memory that kernels keep for each of
/// them is not counted as the model's.
fn warm_up(world: &World) {
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

/// The share of each phase in a rank's time.
fn split(phases: &Phases) -> Vec<(&'static str, f64)> {
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

/// Prints a line; an error, such as a closed pipe, is ignored.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
