//! The records of a run, as they stand in its files.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A quantity over the ranks of a world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct OverRanks {
    /// The mean of all ranks.
    pub mean: f64,
    /// The highest value of a rank.
    pub most: f64,
    /// The rank that has it, the lowest of several.
    pub rank: usize,
}

impl OverRanks {
    /// The mean and the highest of one value per rank, in rank order; zeros of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let (mut sum, mut count, mut most, mut at) = (0.0, 0_usize, f64::NEG_INFINITY, 0);
        for value in values {
            if value > most {
                (most, at) = (value, count);
            }
            sum += value;
            count += 1;
        }
        match count {
            0 => Self::default(),
            _ => Self {
                mean: sum / count as f64,
                most,
                rank: at,
            },
        }
    }
}

/// The seconds of one step, by what a rank did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// The whole step, from the end of the one before.
    pub step: OverRanks,
    /// Waiting for the next batch.
    pub data: OverRanks,
    /// Forward passes, without exposed communication.
    pub forward: OverRanks,
    /// Backward passes, without exposed communication.
    pub backward: OverRanks,
    /// Clipping and the optimizer, without exposed communication.
    pub optimizer: OverRanks,
    /// Communication for which computation waited.
    pub exposed: OverRanks,
    /// Communication behind computation.
    pub hidden: OverRanks,
}

/// One line of `steps.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one counted.
    pub step: u64,
    /// Epochs begun.
    pub epoch: u64,
    /// Seconds since 1970 at its end.
    pub time: f64,
    /// The mean loss of the samples; `None` if it is not a number.
    pub loss: Option<f64>,
    /// The learning rate.
    pub rate: f64,
    /// The global gradient norm before clipping; `None` after an overflow in f16, which skips the step.
    pub norm: Option<f64>,
    /// Samples of all ranks.
    pub samples: u64,
    /// Tokens of all ranks, padding not counted, where the program counts them.
    pub tokens: Option<u64>,
    /// Samples of all ranks per second.
    pub samples_per_s: f64,
    /// Tokens of all ranks per second.
    pub tokens_per_s: Option<f64>,
    /// Seconds, by what a rank did.
    pub seconds: StepTimes,
    /// Bytes that a rank sent.
    pub sent_bytes: OverRanks,
    /// Bytes that a rank holds at the end of the step; 0 where nothing counts them.
    pub memory_bytes: OverRanks,
    /// The most bytes that a rank has held so far.
    pub peak_bytes: OverRanks,
}

/// The scores of a classifier on a data set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Samples, each counted once.
    pub samples: u64,
    /// The mean loss.
    pub loss: f64,
    /// The share of samples whose class was found.
    pub accuracy: f64,
    /// Precision, weighted by the samples of each class.
    pub precision: f64,
    /// Recall, weighted by the samples of each class.
    pub recall: f64,
    /// F1, weighted by the samples of each class.
    pub f1: f64,
    /// The unweighted mean of the classes' F1.
    pub macro_f1: f64,
    /// The share of samples whose class is among the five likeliest; `None` with five classes or fewer.
    pub top5: Option<f64>,
}

/// One line of `epochs.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epochs done, this one counted.
    pub epoch: u64,
    /// Steps done at its end.
    pub steps: u64,
    /// The mean loss of its training samples.
    pub train_loss: f64,
    /// Seconds of training, saves and evaluation not counted.
    pub train_seconds: f64,
    /// Seconds of the evaluation at its end.
    pub evaluation_seconds: f64,
    /// Training samples of all ranks per second of training.
    pub samples_per_s: f64,
    /// The evaluation at its end.
    pub scores: Scores,
    /// Whether it is the best epoch so far.
    pub best: bool,
}

/// Number of hosts and of ranks on each, written `2_4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Setup {
    /// Hosts.
    pub nodes: usize,
    /// Ranks on each host.
    pub ranks_per_node: usize,
}

impl Setup {
    /// Ranks of all hosts.
    pub fn ranks(&self) -> usize {
        self.nodes * self.ranks_per_node
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.nodes, self.ranks_per_node)
    }
}

impl FromStr for Setup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|n: &usize| *n > 0);
        let parts = text.split_once('_');
        match parts.map(|(nodes, ranks)| (number(nodes), number(ranks))) {
            Some((Some(nodes), Some(ranks_per_node))) => Ok(Self {
                nodes,
                ranks_per_node,
            }),
            _ => Err("expected hosts and ranks on each, such as 1_4 or 2_2".into()),
        }
    }
}

impl Serialize for Setup {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Setup {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A rank that was slower than the others for long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Straggler {
    /// Its number.
    pub rank: usize,
    /// The host it runs on.
    pub host: String,
    /// The step at which it was named.
    pub step: u64,
    /// Its time by that of the others: 1.3 is 30 % slower.
    pub ratio: f64,
    /// What it takes longer for: `data`, `compute` or `network`.
    pub cause: String,
}

impl fmt::Display for Straggler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rank,
            host,
            step,
            ratio,
            cause,
        } = self;
        let slower = 100.0 * (ratio - 1.0);
        write!(
            f,
            "rank {rank} on {host} is {slower:.0} % slower than the others at step {step}, by {cause}"
        )
    }
}

/// `summary.json`: the whole run in one record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The name of the run, which its folder has too.
    pub name: String,
    /// The model, such as `vit-tiny`.
    pub model: String,
    /// The strategy, as it is given on the command line.
    pub strategy: String,
    /// Hosts and ranks on each.
    pub setup: Setup,
    /// How the run ended: `finished`, `stopped` (told to end) or `failed`.
    pub ended: String,
    /// Steps done.
    pub steps: u64,
    /// Training samples per second of training, all ranks together.
    pub samples_per_s: f64,
    /// Tokens per second of training, where the program counts them.
    pub tokens_per_s: Option<f64>,
    /// Mean seconds of an epoch's training.
    pub seconds_per_epoch: Option<f64>,
    /// Mean seconds of a step, by what a rank did; the first step, which is slower, is left out of more than one.
    pub seconds: StepTimes,
    /// Mean bytes that a rank sent per step.
    pub sent_bytes: OverRanks,
    /// The most bytes that a rank held.
    pub peak_bytes: OverRanks,
    /// Operations of the model's forward and backward in one second of training, all ranks together, in 1e12.
    pub tflops: Option<f64>,
    /// These operations by what the devices could do in that time.
    pub mfu: Option<f64>,
    /// Every epoch.
    pub epochs: Vec<EpochRecord>,
    /// The epoch with the best score, from 1.
    pub best_epoch: Option<u64>,
    /// The scores on the test set at the end.
    pub test: Option<Scores>,
    /// Ranks that were slower than the others for long.
    pub stragglers: Vec<Straggler>,
}
