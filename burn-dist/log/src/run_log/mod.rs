//! A run that is measured on all ranks, step by step, and recorded by rank 0.

mod ending;
mod histograms;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use crate::counters::Counters;
use crate::folder::{Existing, RunFolder};
use crate::machine::{self, Seat};
use crate::measured::{Measured, NUMBERS, over, times};
use crate::totals::{Totals, counted};
use crate::trace::Recording;
#[cfg(feature = "utilisation")]
use crate::utilisation_log::UtilisationLog;
use crate::{
    EpochRecord, MemoryMeter, Run, Scores, Setup, Step, StepRecord, Straggler, StragglerWatch,
};
use burn_dist::comm::{Label, Span, SpanMut};
use burn_dist::telemetry::{Phase, Phases, TraceKind};
use burn_dist::{Error, Result, World};
use serde_json::json;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The records of a run: measured on every rank, reduced once a step, and written by rank 0.
///
/// ```
/// use burn_dist::prelude::*;
/// use burn_dist::telemetry::Phase;
/// use burn_dist_log::{Ended, Run, RunLog, Step};
///
/// # let folder = tempfile::tempdir().unwrap();
/// let folder = folder.path().join("runs/today");
/// Threads::new(2).run(|world| {
///     let mut log = RunLog::create(&world, &folder, Run::new("mlp", "fsdp"))?;
///     for _ in 0..3 {
///         let loss = log.time(Phase::Forward, || 0.5);
///         let step = Step { loss_sum: 8.0 * loss, samples: 8, rate: 1e-3, ..Step::default() };
///         let record = log.step(step)?;
///         assert_eq!((record.loss, record.samples), (Some(0.5), 16));
///     }
///     log.finish(Ended::Finished, None)?;
///     Ok(())
/// })?;
/// assert_eq!(std::fs::read_to_string(folder.join("steps.jsonl"))?.lines().count(), 3);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Cost
/// A step sends 112 bytes from each rank to each. Lines reach the file about once a second, and whole, so that the files
/// of a killed run can be read. The bench `log` measures it.
///
/// # Source
/// Lightning: `Logger`; torchtitan: `MetricsProcessor`.
#[derive(Debug)]
pub struct RunLog {
    world: World,
    run: Run,
    name: String,
    setup: Setup,
    label: Label,
    phases: Phases,
    memory: MemoryMeter,
    /// Counters when the last step ended, or when this one began.
    before: Counters,
    began: Instant,
    /// Whether a part of this step was timed.
    is_timed: bool,
    /// Steps and epochs of earlier starts of the run.
    steps_before: u64,
    epochs_before: u64,
    totals: Totals,
    epoch: Epoch,
    epochs: Vec<EpochRecord>,
    stragglers_watch: StragglerWatch,
    stragglers: Vec<Straggler>,
    /// Absent in a run that is not written.
    #[cfg(feature = "utilisation")]
    utilisation: Option<UtilisationLog>,
    /// Whether rank 0 has a folder.
    is_written: bool,
    recording: Recording,
    folder: Option<RunFolder>,
    is_finished: bool,
}

/// The steps of the epoch that is running.
#[derive(Debug, Clone, Copy, Default)]
struct Epoch {
    loss_sum: f64,
    samples: f64,
    seconds: f64,
}

impl RunLog {
    /// Measures a run, and writes nothing. Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn unwritten(world: &World, run: Run) -> Result<Self> {
        Self::with(world, run, None)
    }

    /// Records a run in a folder of its own, which rank 0 makes. Collective.
    ///
    /// # Errors
    /// [`Error::File`] if there are the records of an earlier run, or it cannot be written to; what a collective
    /// returns.
    pub fn create(world: &World, folder: impl AsRef<Path>, run: Run) -> Result<Self> {
        Self::with(world, run, Some((folder.as_ref(), Existing::Refused)))
    }

    /// As [`create`](Self::create), and goes on with the records of an earlier start of the same run, which stay. Collective.
    ///
    /// A step that is done again after a restart is recorded again: the later line counts.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn resume(world: &World, folder: impl AsRef<Path>, run: Run) -> Result<Self> {
        Self::with(world, run, Some((folder.as_ref(), Existing::Continued)))
    }

    fn with(world: &World, run: Run, to: Option<(&Path, Existing)>) -> Result<Self> {
        let seats = Seat::all(world)?;
        let setup = Seat::setup(&seats);
        let name = to.map_or("run".into(), |(folder, _)| {
            let name = folder.file_name().unwrap_or(folder.as_os_str());
            name.to_string_lossy().into_owned()
        });
        let folder = world.chief(|| {
            let Some((folder, existing)) = to else {
                return Ok(None);
            };
            let config = json!({
                "name": name,
                "model": run.model,
                "strategy": run.strategy,
                "setup": setup,
                "started": now(),
                "command": std::env::args().collect::<Vec<_>>(),
                "arguments": run.arguments,
                "plan": run.plan,
                "versions": machine::versions(),
                "machine": machine::machine(),
                "ranks": seats,
                "restarts": world.restarts(),
                "peak_flops_per_rank": run.peak_flops,
            });
            RunFolder::create(folder, existing, &config, now()).map(Some)
        })?;
        let folder = folder.flatten();
        let hosts: Vec<String> = seats.into_iter().map(|seat| seat.host).collect();
        #[cfg(feature = "utilisation")]
        let utilisation = {
            let folder = folder.as_ref().map(RunFolder::path);
            let start = |_| UtilisationLog::start(world, folder, hosts.clone());
            to.map(start).transpose()?
        };
        let phases = Phases::new(world);
        Ok(Self {
            before: Counters::read(world, &phases),
            memory: MemoryMeter::new(world)?,
            world: world.clone(),
            run,
            name,
            setup,
            label: "run log".into(),
            phases,
            began: Instant::now(),
            is_timed: false,
            steps_before: 0,
            epochs_before: 0,
            totals: Totals::default(),
            epoch: Epoch::default(),
            epochs: Vec::new(),
            stragglers_watch: StragglerWatch::new(hosts),
            stragglers: Vec::new(),
            #[cfg(feature = "utilisation")]
            utilisation,
            is_written: to.is_some(),
            recording: Recording::default(),
            folder,
            is_finished: false,
        })
    }

    /// The folder, on rank 0 of a run that is written.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(RunFolder::path)
    }

    /// Hosts, and ranks on each.
    pub fn setup(&self) -> Setup {
        self.setup
    }

    /// The memory of this rank since the log was made.
    pub fn memory(&self) -> &MemoryMeter {
        &self.memory
    }

    /// Counts steps and epochs from those that a save holds.
    pub fn resumed(&mut self, steps: u64, epochs: u64) {
        (self.steps_before, self.epochs_before) = (steps, epochs);
        self.recording.before(&self.world, self.number() + 1);
    }

    /// Traces the steps of these numbers, as records have them, on all ranks: `trace.json` for Perfetto and, of the last one of
    /// them, the picture `trace.svg`. All ranks ask for the same.
    ///
    /// # Cost
    /// In a traced step about a microsecond for each unit, collective and wait; the spans of all ranks are sent to each once, at the
    /// end of the last step.
    pub fn trace(&mut self, steps: Range<u64>) {
        self.recording = Recording::of(steps);
        self.recording.before(&self.world, self.number() + 1);
    }

    /// Steps done, those of earlier starts of the run counted.
    fn number(&self) -> u64 {
        self.steps_before + self.totals.steps()
    }

    /// Runs a part of a step and measures its time. The first part after a step begins the next one; without
    /// any, a step begins where the one before has ended.
    pub fn time<T>(&mut self, phase: Phase, f: impl FnOnce() -> T) -> T {
        if !self.is_timed {
            self.restart_step();
        }
        self.phases.time(phase, f)
    }

    /// Leaves out what was done since the step began, such as a comparison with another run.
    pub fn restart_step(&mut self) {
        self.before = Counters::read(&self.world, &self.phases);
        (self.began, self.is_timed) = (Instant::now(), true);
    }

    /// Records the end of a step. Collective: an all-gather of 112 bytes a rank.
    ///
    /// # Errors
    /// [`Error::File`] on rank 0 if the records cannot be written; what a collective returns.
    pub fn step(&mut self, step: Step) -> Result<StepRecord> {
        let ranks = self.gather(&step)?;
        self.totals.add(&ranks);
        let seconds = times(&ranks);
        self.watch(&ranks)?;
        let (loss, samples) = ranks.iter().fold((0.0, 0.0), |(loss, samples), rank| {
            (loss + rank.loss, samples + rank.samples)
        });
        self.epoch.loss_sum += loss;
        self.epoch.samples += samples;
        self.epoch.seconds += seconds.step.most;
        let mean = loss / samples;
        // All ranks begin a step together, so the slowest one's time is that of the step.
        let per_second = |done: f64| done / seconds.step.most.max(1e-9);
        let tokens = counted(&ranks, |m| m.tokens);
        let record = StepRecord {
            step: self.number(),
            epoch: self.epochs_before + self.epochs.len() as u64 + 1,
            time: now(),
            loss: mean.is_finite().then_some(mean),
            rate: step.rate,
            norm: step.norm,
            samples: samples as u64,
            tokens: tokens.map(|tokens| tokens as u64),
            samples_per_s: per_second(samples),
            tokens_per_s: tokens.map(per_second),
            seconds,
            sent_bytes: over(&ranks, |m| m.sent_bytes),
            memory_bytes: over(&ranks, |m| m.memory_bytes),
            peak_bytes: over(&ranks, |m| m.peak_bytes),
        };
        if let Some(folder) = &mut self.folder {
            folder.step(&record)?;
        }
        #[cfg(feature = "utilisation")]
        if let Some(utilisation) = &mut self.utilisation {
            utilisation.step(&self.world, record.seconds.step.most)?;
        }
        if self.recording.ends_after(record.step) {
            self.end_trace()?;
        }
        self.recording.before(&self.world, record.step + 1);
        self.restart_step();
        self.is_timed = false;
        Ok(record)
    }

    /// Names ranks that are slower than the others for long.
    fn watch(&mut self, ranks: &[Measured]) -> Result<()> {
        let times: Vec<_> = ranks.iter().map(Measured::of_watch).collect();
        let odd = |e| Error::config("the times of a step", "those of a clock", e);
        for found in self
            .stragglers_watch
            .step(self.number(), &times)
            .map_err(odd)?
        {
            if self.world.is_chief() {
                log::warn!("{found}");
            }
            self.stragglers.push(found);
        }
        Ok(())
    }

    /// What each rank has measured since the step began, in rank order.
    fn gather(&mut self, step: &Step) -> Result<Vec<Measured>> {
        let now = Counters::read(&self.world, &self.phases);
        let (before, seconds) = (self.before, |time: Duration| time.as_secs_f64());
        let phase = |phase: Phase| {
            let at = phase as usize;
            seconds(now.phases[at].saturating_sub(before.phases[at]))
        };
        let (memory_bytes, peak_bytes) = self.memory.bytes();
        let mine = Measured {
            loss: step.loss_sum,
            samples: step.samples as f64,
            tokens: step.tokens.map_or(-1.0, |tokens| tokens as f64),
            flops: step.flops.unwrap_or(-1.0),
            step: seconds(self.began.elapsed()),
            data: phase(Phase::Data),
            forward: phase(Phase::Forward),
            backward: phase(Phase::Backward),
            optimizer: phase(Phase::Optimizer),
            exposed: seconds(now.exposed.saturating_sub(before.exposed)),
            communication: seconds(now.communication.saturating_sub(before.communication)),
            sent_bytes: now.sent_bytes.saturating_sub(before.sent_bytes) as f64,
            memory_bytes,
            peak_bytes,
        };
        let mut all = vec![0.0; NUMBERS * self.world.size()];
        let sent = mine.to_numbers();
        let comm = self.world.comm();
        comm.all_gather(&self.label, Span::of(&sent), SpanMut::of(&mut all))?;
        let name = || format!("step {}", self.number() + 1);
        let tracer = self.world.tracer();
        tracer.record_since(TraceKind::Step, name, self.began);
        let (ranks, _) = all.as_chunks::<NUMBERS>();
        Ok(ranks.iter().copied().map(Measured::from_numbers).collect())
    }

    /// Records the end of an epoch, with the scores of its evaluation, which all ranks have alike.
    ///
    /// # Errors
    /// [`Error::File`] on rank 0 if the records cannot be written.
    pub fn epoch(
        &mut self,
        scores: Scores,
        evaluation: Duration,
        best: bool,
    ) -> Result<EpochRecord> {
        let Epoch {
            loss_sum,
            samples,
            seconds,
        } = std::mem::take(&mut self.epoch);
        let record = EpochRecord {
            epoch: self.epochs_before + self.epochs.len() as u64 + 1,
            steps: self.steps_before + self.totals.steps(),
            train_loss: loss_sum / samples.max(1.0),
            train_seconds: seconds,
            evaluation_seconds: evaluation.as_secs_f64(),
            samples_per_s: samples / seconds.max(1e-9),
            scores,
            best,
        };
        self.epochs.push(record.clone());
        if let Some(folder) = &mut self.folder {
            folder.epoch(&record, now())?;
        }
        Ok(record)
    }

    /// The epochs recorded so far.
    pub fn epochs(&self) -> &[EpochRecord] {
        &self.epochs
    }

    /// Writes a text file into the folder of the run, if there is one.
    ///
    /// # Errors
    /// [`Error::File`] on rank 0 if that fails.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        self.folder.as_ref().map_or(Ok(()), |f| f.write(name, text))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
