//! The text example: training, resuming and errors as for the image example, and its texts and vocabulary.

use super::run::{Ended, Running, epochs, names, row, sent};
use burn_dist::data::Dataset;
use burn_dist_models::data::text::Newswire;
use std::fmt::Write;
use std::path::Path;
use tempfile::TempDir;

fn run(args: &str, folders: &[(&str, &Path)]) -> Ended {
    Running::start("bert_fsdp", args, folders).end()
}

/// AG News in its format and with few texts, in a folder of its own.
fn ag_news() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let parts = [
        ("train.csv", Newswire::train(7, 48)),
        ("test.csv", Newswire::test(7, 25)),
    ];
    for (name, texts) in parts {
        let mut rows = String::new();
        for text in (0..texts.len()).map(|index| texts.get(index).unwrap()) {
            let (class, title) = (text.label + 1, text.title);
            writeln!(rows, r#""{class}","{title}","{}""#, text.description).unwrap();
        }
        std::fs::write(folder.path().join(name), rows).unwrap();
    }
    folder
}

#[test]
fn the_example_runs_without_files_on_1_2_and_3_ranks() {
    for ranks in 1..=3 {
        let args = format!("--ranks {ranks} --epochs 1 --steps 3");
        let output = run(&args, &[]).succeeded();
        assert!(output[0].starts_with(&format!("fsdp over {ranks} rank(s)")));
        assert_eq!(names(&output), ["epoch 1"]);
        assert!(row(&output, "test accuracy").contains("of 512"));
    }
}

#[test]
fn every_strategy_trains_and_sends_its_planned_bytes() {
    let data = ag_news();
    for strategy in ["ddp", "zero1", "zero2", "fsdp", "hybrid:1", "hybrid:2"] {
        let args =
            format!("--strategy {strategy} --per-gpu-batch 4 --epochs 1 --steps 3 --ranks 2");
        let output = run(&args, &[("--data", data.path())]).succeeded();
        assert!(output[0].starts_with(&format!("{strategy} over 2 rank(s)")));
        assert_eq!(names(&output), ["epoch 1"]);
        let (counted, planned) = sent(&output);
        assert_eq!(counted, planned, "{strategy}");
        assert!(planned > 0.0, "{strategy}");
    }
}

/// The same twelve texts a step, divided over ranks in any way: losses depend neither on the ranks nor on the
/// padding.
#[test]
fn losses_do_not_depend_on_the_number_of_ranks() {
    let data = ag_news();
    let losses = |ranks: usize| {
        let batch = 12 / ranks;
        let args =
            format!("--ranks {ranks} --per-gpu-batch {batch} --epochs 8 --lr 3e-3 --dropout 0");
        let output = run(&args, &[("--data", data.path())]).succeeded();
        assert_eq!(names(&output).len(), 8);
        let last = |(_, line): (&str, &str)| line.rsplit(' ').next().unwrap().parse().unwrap();
        epochs(&output).into_iter().map(last).collect::<Vec<f64>>()
    };
    let one = losses(1);
    assert!(one[7] < one[0] - 0.1, "{one:?}");
    for ranks in [2, 3] {
        for (several, one) in losses(ranks).into_iter().zip(&one) {
            // Both are rounded to three digits.
            assert!(
                (several - one).abs() < 2e-3,
                "{several} on {ranks}, {one} on 1"
            );
        }
    }
}

#[test]
fn accuracy_does_not_depend_on_the_number_of_ranks() {
    let accuracies = [1, 2, 3].map(|ranks| {
        let output = run(&format!("--ranks {ranks} --epochs 0"), &[]).succeeded();
        assert!(epochs(&output).is_empty());
        row(&output, "test accuracy").to_owned()
    });
    assert!(accuracies[0].contains("of 512"), "{}", accuracies[0]);
    assert_eq!(accuracies[1], accuracies[0]);
    assert_eq!(accuracies[2], accuracies[0]);
}

/// Hash maps are seeded anew in each process, so that this would not go well by chance.
#[test]
fn processes_share_one_vocabulary_and_train_like_threads() {
    let data = ag_news();
    let args = "--per-gpu-batch 6 --epochs 2";
    let result = |ranks: &str| {
        let mut output = run(&format!("{args} {ranks}"), &[("--data", data.path())]).succeeded();
        // A launcher prefixes a line with the process that it is from.
        for line in &mut output {
            *line = line.strip_prefix("[0]: ").unwrap_or(line).to_owned();
        }
        let lines = epochs(&output);
        assert_eq!(lines.len(), 2, "{output:#?}");
        format!("{lines:?} {}", row(&output, "test accuracy"))
    };
    assert_eq!(result("--nproc-per-node 2"), result("--ranks 2"));
}

#[test]
fn a_resumed_run_keeps_its_vocabulary() {
    let (data, save) = (ag_news(), tempfile::tempdir().unwrap());
    let folders = [("--data", data.path()), ("--save", save.path())];
    let straight = run("--per-gpu-batch 4 --epochs 3", &folders[..1]).succeeded();
    // The save of an epoch is complete before that of the next one begins.
    let args = "--per-gpu-batch 4 --epochs 3";
    Running::start("bert_fsdp", args, &folders).kill_at("epoch 2");
    let pieces = std::fs::read_to_string(save.path().join("vocab.txt")).unwrap();
    assert!(pieces.starts_with("[PAD]\n"));
    // A new vocabulary would be smaller, and the saved words would not fit.
    let resumed = run(&format!("{args} --resume --vocab 200"), &folders).succeeded();
    let rest = epochs(&resumed);
    assert!((1..=2).contains(&rest.len()), "{resumed:#?}");
    assert!(epochs(&straight).ends_with(&rest), "{resumed:#?}");
    let accuracy = |output| row(output, "test accuracy").to_owned();
    assert_eq!(accuracy(&resumed), accuracy(&straight));

    // The folder is one that a tokenizer can be read from, too.
    let folders = [("--data", data.path()), ("--tokenizer", save.path())];
    let again = run("--per-gpu-batch 4 --epochs 3", &folders).succeeded();
    assert_eq!(epochs(&again), epochs(&straight));
}

#[test]
fn a_wrong_flag_shows_the_usage() {
    let ended = run("--max-len 2", &[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("'--max-len'"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("Usage: bert_fsdp"),
        "{}",
        ended.stderr
    );
    let ended = run("--tokenizer here --vocab 3", &[]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("cannot be used with"),
        "{}",
        ended.stderr
    );
}

#[test]
fn invalid_numbers_are_refused() {
    let cases = [
        (
            "--ranks 0",
            "error: number of ranks: expected at least 1, found 0",
        ),
        (
            "--max-length 4",
            "error: length of texts: expected at least 5 tokens, found 4",
        ),
        (
            "--max-length 513",
            "error: --max-length: expected at most 512 tokens, which a BERT has places for, found 513",
        ),
        (
            "--vocab 20",
            "error: size of the vocabulary: expected at least 60, the 5 special tokens and the characters of the \
             texts, found 20",
        ),
    ];
    for (args, message) in cases {
        assert_eq!(run(args, &[]).failed(), message, "{args}");
    }
}

#[test]
fn a_missing_folder_is_named() {
    let nowhere = tempfile::tempdir().unwrap().path().join("nowhere");
    let cases = [
        (
            "--data",
            "the folder ag_news_csv with train.csv and test.csv",
        ),
        ("--tokenizer", "a folder with tokenizer.json or vocab.txt"),
    ];
    for (flag, expected) in cases {
        let message = run("", &[(flag, &nowhere)]).failed();
        let expected = format!("error: {}: expected {expected}", nowhere.display());
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn a_malformed_row_is_an_error_with_its_line() {
    let data = ag_news();
    let file = data.path().join("train.csv");
    std::fs::write(&file, "\"1\",\"a\",\"b\"\n\"2\",\"only a title\"\n").unwrap();
    let message = run("", &[("--data", data.path())]).failed();
    let expected = format!(
        "error: {}, line 2: expected 3 columns (class, title, description), found 2",
        file.display()
    );
    assert_eq!(message, expected);
}
