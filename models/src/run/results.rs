//! A result file of seven lists, one value per epoch, that plotting scripts read as Python.

use burn_dist_log::EpochRecord;
use std::fmt::Write;

/// The lists: scores and loss of each epoch's evaluation, its seconds of training, and evaluated samples per second.
pub(super) fn results(epochs: &[EpochRecord]) -> String {
    type Of = fn(&EpochRecord) -> f64;
    let lists: [(&str, Of); 7] = [
        ("f1", |e| e.scores.f1),
        ("accuracy", |e| e.scores.accuracy),
        ("precision", |e| e.scores.precision),
        ("recall", |e| e.scores.recall),
        ("times", |e| e.train_seconds),
        ("loss", |e| e.scores.loss),
        ("samples/s", |e| {
            e.scores.samples as f64 / e.evaluation_seconds.max(1e-9)
        }),
    ];
    let mut text = String::new();
    for (name, of) in lists {
        let values: Vec<String> = epochs.iter().map(|epoch| of(epoch).to_string()).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}=[{}]", values.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_dist_log::Scores;

    #[test]
    fn every_epoch_has_a_value_in_every_list() {
        let epoch = |accuracy| EpochRecord {
            epoch: 1,
            steps: 10,
            train_loss: 0.5,
            train_seconds: 2.5,
            evaluation_seconds: 0.5,
            samples_per_s: 4.0,
            scores: Scores {
                samples: 100,
                accuracy,
                ..Scores::default()
            },
            best: true,
        };
        let text = results(&[epoch(0.5), epoch(0.75)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "accuracy=[0.5,0.75]");
        assert_eq!(lines[4], "times=[2.5,2.5]");
        assert_eq!(lines[6], "samples/s=[200,200]");
        assert_eq!(lines.len(), 7);
    }
}
