//! One run: what it was told, how it ended, and its records.

use super::{RunConfig, Sample};
use crate::matrix::Experiment;
use crate::record::{EpochRecord, StepRecord, Summary};
use crate::runner::{ELSEWHERE, Launch, State, commands, lacking, run_folder, summary};
use crate::{Result, files};
use std::path::Path;

/// Other programs that use more cores than this disturb times.
const DISTURBS: f64 = 0.2;

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It has finished.
    Finished,
    /// It has not, and why.
    Failed(String),
    /// It is yet to run, and why, if there is a reason.
    Missing(Option<String>),
}

/// One run of a matrix.
#[derive(Debug, Clone)]
pub struct Run {
    /// What it is.
    pub experiment: Experiment,
    /// Its commands, one for each node.
    pub commands: Vec<String>,
    /// How it stands.
    pub status: Status,
    /// Whether its ranks have less than a core for each of their threads.
    pub shares_cores: bool,
    /// Cores that other programs used meanwhile, on the mean.
    pub others_cores: Option<f64>,
    /// The whole run in one record, of one that has finished.
    pub summary: Option<Summary>,
    /// Its steps.
    pub steps: Vec<StepRecord>,
    /// The utilisation of its processes.
    pub utilisation: Vec<Sample>,
    /// What its configuration says.
    pub config: RunConfig,
    /// The picture of a traced step.
    pub trace: Option<String>,
}

impl Run {
    /// Reads what there is of an experiment; the records only of one that has finished.
    pub(super) fn read(out: &Path, one: &Experiment) -> Result<Self> {
        let folder = run_folder(out, one);
        let launch = Launch::read(&folder)?;
        let state = State::of(&folder)?;
        let finished = state == State::Complete;
        let status = match state {
            State::Complete => Status::Finished,
            State::Missing => Status::Missing(lacking(one)),
            State::Incomplete => {
                let outcome = launch.as_ref().and_then(|launch| launch.outcome.as_ref());
                let message = outcome.map(|outcome| outcome.message.clone());
                Status::Failed(message.unwrap_or_else(|| "it has not ended, or was killed".into()))
            }
        };
        let commands = match &launch {
            Some(launch) => launch.commands.clone(),
            None => {
                let program =
                    Path::new("target/release/examples").join(one.model.program.example());
                commands(one, &program, &folder, 1, ELSEWHERE)
            }
        };
        let mut run = Self {
            experiment: one.clone(),
            commands: commands.iter().map(ToString::to_string).collect(),
            status,
            shares_cores: launch.as_ref().is_some_and(Launch::shares_cores),
            others_cores: launch.and_then(|launch| launch.outcome?.others_cores),
            summary: None,
            steps: Vec::new(),
            utilisation: Vec::new(),
            config: RunConfig::default(),
            trace: None,
        };
        if finished {
            run.summary = summary(&folder)?;
            run.steps = steps(&folder.join("steps.jsonl"))?;
            run.utilisation = Sample::read(&folder.join("utilisation.csv"))?;
            let config =
                files::read_json(&folder.join("config.json"), "the configuration of a run")?;
            run.config = RunConfig::of(&config);
            let trace = folder.join("trace.svg");
            if trace.exists() {
                run.trace = Some(files::read(&trace, "the picture of a traced step")?);
            }
        }
        Ok(run)
    }

    /// Whether other programs took more of the machine than a measurement of times bears.
    pub fn is_disturbed(&self) -> bool {
        self.others_cores.is_some_and(|cores| cores > DISTURBS)
    }

    /// The name of its experiment.
    pub fn name(&self) -> String {
        self.experiment.name()
    }

    /// Its epochs.
    pub fn epochs(&self) -> &[EpochRecord] {
        self.summary.as_ref().map_or(&[], |s| &s.epochs)
    }

    /// Mean seconds of an epoch's training.
    pub fn seconds_per_epoch(&self) -> Option<f64> {
        self.summary.as_ref()?.seconds_per_epoch
    }

    /// Mean seconds of an evaluation.
    pub fn evaluation_seconds(&self) -> Option<f64> {
        let all = self.epochs();
        let sum: f64 = all.iter().map(|epoch| epoch.evaluation_seconds).sum();
        (!all.is_empty()).then(|| sum / all.len() as f64)
    }

    /// The accuracy on the test set: at the end, or after the last epoch.
    pub fn accuracy(&self) -> Option<f64> {
        let at_end = self.summary.as_ref().and_then(|s| s.test);
        let last = self.epochs().last().map(|epoch| epoch.scores);
        at_end.or(last).map(|scores| scores.accuracy)
    }

    /// The mean loss of the last epoch's training samples.
    pub fn train_loss(&self) -> Option<f64> {
        self.epochs().last().map(|epoch| epoch.train_loss)
    }
}

/// The records of steps. Of one that was done twice the later line counts; the last line may be cut off.
fn steps(path: &Path) -> Result<Vec<StepRecord>> {
    let text = files::read(path, "the records of a run's steps")?;
    let mut steps: Vec<StepRecord> = Vec::new();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for (number, line) in whole.lines().enumerate() {
        let step: StepRecord = serde_json::from_str(line).map_err(|e| {
            let expected = format!("the record of a step in line {}", number + 1);
            crate::Error::file(path, expected, e)
        })?;
        steps.retain(|earlier| earlier.step < step.step);
        steps.push(step);
    }
    Ok(steps)
}
