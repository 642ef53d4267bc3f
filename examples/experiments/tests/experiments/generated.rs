//! Run folders that are written with the real record types, from a formula instead of a training.

use experiments::matrix::{Experiment, Matrix};
use experiments::record::{
    EpochRecord, OverRanks, Scores, StepRecord, StepTimes, Straggler, Summary,
};
use experiments::runner::{Launch, Meeting, Outcome, commands, run_folder};
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Bytes of the model that the formula stands for.
const MODEL: f64 = 17e6;

/// The same value plus a little per rank.
fn over(ranks: usize, value: f64) -> OverRanks {
    OverRanks::of((0..ranks).map(|rank| value * (1.0 + 0.03 * rank as f64)))
}

/// The seconds of one step.
pub(crate) fn times(one: &Experiment) -> StepTimes {
    let ranks = one.setup.ranks();
    let samples = (one.batch * one.recipe.accumulate) as f64;
    let is_far = one.link.as_ref().is_some_and(|link| link.label == "far");
    let sent = if ranks == 1 { 0.0 } else { MODEL };
    let wire = sent / if is_far { 40e6 } else { 900e6 };
    let exposed = wire * 0.6;
    let (forward, backward) = (2e-3 * samples + 1e-3, 4e-3 * samples + 2e-3);
    let sum = 1e-3 + forward + backward + exposed + 4e-3;
    StepTimes {
        step: over(ranks, 1.02 * sum),
        data: over(ranks, 1e-3),
        forward: over(ranks, forward),
        backward: over(ranks, backward),
        optimizer: over(ranks, 4e-3),
        exposed: over(ranks, exposed),
        hidden: over(ranks, wire * 0.4),
    }
}

/// Steps of an epoch.
pub(crate) fn steps_per_epoch(one: &Experiment) -> u64 {
    let train = one.recipe.train_size.unwrap_or(2048);
    train.div_ceil(one.batch * one.recipe.accumulate * one.setup.ranks()) as u64
}

/// The seconds of an epoch.
pub(crate) fn seconds_per_epoch(one: &Experiment) -> f64 {
    times(one).step.most * steps_per_epoch(one) as f64
}

/// The accuracy after an epoch.
pub(crate) fn accuracy(one: &Experiment, epoch: u64) -> f64 {
    let speed = (one.rate * 200.0 / one.setup.ranks() as f64).min(1.5);
    0.95 - 0.7 * (-speed * epoch as f64).exp()
}

/// The bytes that a rank has held.
pub(crate) fn peak(one: &Experiment) -> f64 {
    let share = match one.strategy.to_string().as_str() {
        "fsdp" => one.setup.ranks() as f64,
        _ => 1.0,
    };
    4.0 * MODEL / share + 2e6 * one.batch as f64
}

fn epoch(one: &Experiment, number: u64) -> EpochRecord {
    let accuracy = accuracy(one, number);
    let seconds = seconds_per_epoch(one);
    EpochRecord {
        epoch: number,
        steps: number * steps_per_epoch(one),
        train_loss: 2.0 * (1.0 - accuracy),
        train_seconds: seconds,
        evaluation_seconds: 0.8,
        samples_per_s: one.recipe.train_size.unwrap_or(2048) as f64 / seconds,
        scores: Scores {
            samples: 512,
            loss: 1.8 * (1.0 - accuracy),
            accuracy,
            precision: accuracy,
            recall: accuracy,
            f1: accuracy,
            macro_f1: accuracy,
            top5: None,
        },
        best: true,
    }
}

/// The summary of a run that has finished.
pub(crate) fn summary(one: &Experiment) -> Summary {
    let ranks = one.setup.ranks();
    let epochs: Vec<_> = (1..=one.recipe.epochs as u64)
        .map(|n| epoch(one, n))
        .collect();
    let straggler = Straggler {
        rank: 1,
        host: "vm".into(),
        step: 12,
        ratio: 1.31,
        cause: "network".into(),
    };
    let is_far = one.link.as_ref().is_some_and(|link| link.label == "far");
    Summary {
        name: one.name(),
        model: one.model.to_string(),
        strategy: one.strategy.to_string(),
        setup: one.setup,
        ended: "finished".into(),
        steps: epochs.len() as u64 * steps_per_epoch(one),
        samples_per_s: epochs[0].samples_per_s,
        tokens_per_s: None,
        seconds_per_epoch: Some(seconds_per_epoch(one)),
        seconds: times(one),
        sent_bytes: over(ranks, if ranks == 1 { 0.0 } else { MODEL }),
        peak_bytes: over(ranks, peak(one)),
        tflops: None,
        mfu: None,
        best_epoch: Some(epochs.len() as u64),
        test: epochs.last().map(|epoch| epoch.scores),
        epochs,
        stragglers: is_far.then_some(straggler).into_iter().collect(),
    }
}

fn step(one: &Experiment, number: u64) -> StepRecord {
    let (ranks, seconds) = (one.setup.ranks(), times(one));
    let samples = (one.batch * one.recipe.accumulate * ranks) as u64;
    let done = number as f64 / steps_per_epoch(one) as f64;
    let noise = ((number * 7919) % 101) as f64 / 101.0 - 0.5;
    StepRecord {
        step: number,
        epoch: 1 + number / steps_per_epoch(one),
        time: 1.8e9 + number as f64 * seconds.step.most,
        loss: Some(0.2 + 1.8 * (-done * one.rate * 300.0).exp() + 0.1 * noise),
        rate: one.rate,
        norm: Some(1.0),
        samples,
        tokens: None,
        samples_per_s: samples as f64 / seconds.step.most,
        tokens_per_s: None,
        seconds,
        sent_bytes: over(ranks, if ranks == 1 { 0.0 } else { MODEL }),
        memory_bytes: over(ranks, 0.7 * peak(one)),
        peak_bytes: over(ranks, peak(one)),
    }
}

/// Writes the records of a run that has finished, as rank 0 of it would.
pub(crate) fn write_records(folder: &Path, one: &Experiment) {
    fs::create_dir_all(folder).unwrap();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    let summary = summary(one);
    let mut steps = String::new();
    for number in 1..=summary.steps {
        writeln!(
            steps,
            "{}",
            serde_json::to_string(&step(one, number)).unwrap()
        )
        .unwrap();
    }
    write("steps.jsonl", steps);
    write(
        "summary.json",
        serde_json::to_string_pretty(&summary).unwrap(),
    );
    let kept = 4.0 * MODEL / (4.0 * MODEL + 2e6 * one.batch as f64) * peak(one);
    let config = json!({
        "machine": { "processor": "A processor of tests", "cores": 2, "memory": "8 GB" },
        "versions": { "burn": "0.22.1", "burn-dist": "0.1.0" },
        "plan": {
            "parameters": 4_200_000,
            "bytes_per_rank": { "parameters": kept as u64 / 4, "gradients": kept as u64 / 4, "optimizer": kept as u64 / 2 },
            "sent_per_rank_and_step": [{ "op": "all_reduce", "calls": 3, "bytes": summary.sent_bytes.mean as u64 }],
        },
    });
    write("config.json", config.to_string());
    let mut csv = String::from(
        "time,rank,host,cpu_percent,memory_bytes,net_sent_bytes_per_s,net_received_bytes_per_s,gpu,gpu_percent,gpu_memory_bytes\n",
    );
    for second in 0..30 {
        for rank in 0..one.setup.ranks() {
            let cpu = 95.0 + f64::from((second * 13 + rank as i32 * 29) % 10);
            let memory = peak(one) * (1.0 - (-f64::from(second + 1)).exp());
            writeln!(
                csv,
                "{},{rank},vm,{cpu},{memory},1500000,1400000,,,",
                1.8e9 + f64::from(second)
            )
            .unwrap();
        }
    }
    write("utilisation.csv", csv);
}

/// Writes the folder of a run that has finished.
pub(crate) fn finish(out: &Path, one: &Experiment, cores: usize) {
    let folder = run_folder(out, one);
    write_records(&folder, one);
    let program = Path::new("/programs").join(one.model.program.example());
    let meeting = Meeting {
        host: "127.0.0.1",
        port: 4321,
    };
    let launch = Launch {
        experiment: one.clone(),
        commands: commands(one, &program, &folder, 1, meeting),
        cores,
        threads: 1,
        outcome: Some(Outcome {
            success: true,
            seconds: 12.5,
            others_cores: Some(0.05),
            message: String::new(),
        }),
    };
    launch.write(&folder).unwrap();
}

/// Writes the folders of a whole matrix on a machine of two cores.
pub(crate) fn finish_all(out: &Path, matrix: &Matrix) {
    matrix.claim(out).unwrap();
    for one in &matrix.experiments {
        finish(out, one, 2);
    }
}

/// The matrix of a command line.
pub(crate) fn matrix(arguments: &str) -> Matrix {
    cli(arguments).matrix().unwrap()
}

/// A command line.
pub(crate) fn cli(arguments: &str) -> experiments::cli::Cli {
    use clap::Parser;
    let words = std::iter::once("experiments").chain(arguments.split_whitespace());
    experiments::cli::Cli::try_parse_from(words).unwrap()
}
