//! The image example.

use super::run::{Ended, Running, epochs, megabytes, names, row, sent};
use std::path::Path;
use tempfile::TempDir;

fn run(args: &str, folders: &[(&str, &Path)]) -> Ended {
    Running::start("vit_fsdp", args, folders).end()
}

/// CIFAR-10's files with few images that are easy to classify, for epochs of milliseconds.
fn cifar() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let images = |count: u8| -> Vec<u8> {
        let image = |i: u8| {
            let label = i % 10;
            let pixel = move |p: usize| label * 20 + (p * 7 + usize::from(i)) as u8 % 16;
            std::iter::once(label).chain((0..3072).map(pixel))
        };
        (0..count).flat_map(image).collect()
    };
    for part in 1..=5 {
        let file = format!("data_batch_{part}.bin");
        std::fs::write(folder.path().join(file), images(8)).unwrap();
    }
    std::fs::write(folder.path().join("test_batch.bin"), images(25)).unwrap();
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
    let data = cifar();
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

#[test]
fn memory_between_steps_is_as_planned() {
    let data = cifar();
    for strategy in ["ddp", "fsdp"] {
        for how in ["--ranks 2", "--nproc-per-node 2"] {
            let args =
                format!("--strategy {strategy} --per-gpu-batch 4 --epochs 1 --steps 3 {how}");
            let output = run(&args, &[("--data", data.path())]).succeeded();
            // Lines through a launcher begin with the rank.
            let lines = output.iter().map(|line| line.trim_start_matches("[0]: "));
            let lines: Vec<_> = lines.map(String::from).collect();
            let (held, planned) = megabytes(&lines, "held between steps");
            let beside = (held - planned).abs();
            assert!(
                beside <= 0.05 * planned + 0.262,
                "{strategy} {how}: {held} for {planned}"
            );
        }
    }
}

#[test]
fn the_strategy_single_trains_on_one_rank() {
    let data = cifar();
    let args = "--strategy single --ranks 1 --per-gpu-batch 4 --epochs 1 --steps 3";
    let output = run(args, &[("--data", data.path())]).succeeded();
    assert!(output[0].starts_with("single over 1 rank(s)"));
    assert_eq!(names(&output), ["epoch 1"]);
    assert_eq!(sent(&output), (0.0, 0.0));
}

#[test]
fn accumulation_trains_like_one_large_batch() {
    let data = cifar();
    let run = |args: &str| run(args, &[("--data", data.path())]).succeeded();
    let halves = run("--per-gpu-batch 5 --accumulate 2 --epochs 2");
    let whole = run("--per-gpu-batch 10 --epochs 2");
    assert_eq!(names(&halves), ["epoch 1", "epoch 2"]);
    let loss = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    for ((epoch, halves), (_, whole)) in epochs(&halves).into_iter().zip(epochs(&whole)) {
        // Both are rounded to three digits.
        let off = loss(halves) - loss(whole);
        assert!(off.abs() < 2e-3, "{epoch}: {halves} and {whole}");
    }
    // FSDP gathers and reduces in each backward pass: twice a step.
    assert_eq!(sent(&halves).0, sent(&halves).1);
    assert!((sent(&halves).0 - 2.0 * sent(&whole).0).abs() < 0.015);
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

#[test]
fn a_killed_run_resumes_to_the_same_result() {
    let data = cifar();
    let save = tempfile::tempdir().unwrap();
    let args = "--per-gpu-batch 4 --epochs 4";
    let straight = run(args, &[("--data", data.path())]).succeeded();
    assert_eq!(
        names(&straight),
        ["epoch 1", "epoch 2", "epoch 3", "epoch 4"]
    );

    let folders = [("--data", data.path()), ("--save", save.path())];
    // The line of an epoch is printed while its save is written, so that the last complete one is that of this epoch,
    // of the one before, or of the next.
    Running::start("vit_fsdp", args, &folders).kill_at("epoch 2");
    let resumed = run(&format!("{args} --resume"), &folders).succeeded();
    let rest = epochs(&resumed);
    assert!((1..=3).contains(&rest.len()), "{resumed:#?}");
    assert!(epochs(&straight).ends_with(&rest), "{resumed:#?}");
    let accuracy = |output| row(output, "test accuracy").to_owned();
    assert_eq!(accuracy(&resumed), accuracy(&straight));
}

#[test]
fn a_finished_run_goes_on_for_more_epochs() {
    let data = cifar();
    let save = tempfile::tempdir().unwrap();
    let folders = [("--data", data.path()), ("--save", save.path())];
    let first = run("--per-gpu-batch 4 --epochs 1", &folders).succeeded();
    assert_eq!(names(&first), ["epoch 1"]);
    let more = run("--per-gpu-batch 4 --epochs 3 --resume", &folders).succeeded();
    assert_eq!(names(&more), ["epoch 2", "epoch 3"]);
    // Bytes are those of the steps since it went on.
    assert_eq!(sent(&more).0, sent(&more).1);
}

#[test]
fn another_batch_size_resumes_after_the_samples_seen() {
    let data = cifar();
    let save = tempfile::tempdir().unwrap();
    let folders = [("--data", data.path()), ("--save", save.path())];
    // 24 of 40 samples.
    run("--per-gpu-batch 4 --epochs 1 --steps 3", &folders).succeeded();
    let other_seed = "--per-gpu-batch 4 --epochs 1 --resume --seed 1";
    let message = run(other_seed, &folders).failed();
    assert!(
        message.contains("the seed of the data's order"),
        "{message}"
    );
    assert!(message.contains("24 of the 40 samples"), "{message}");
    // The other 16 in steps of 10 are 2 more; the next epoch has 4.
    let of_5 = "--per-gpu-batch 5 --epochs 2 --resume";
    let rest = run(of_5, &folders).succeeded();
    assert_eq!(names(&rest), ["epoch 1", "epoch 2"]);
    let again = run(of_5, &folders).succeeded();
    let begin = |line: &String| line.starts_with("going on from step 9, ");
    assert!(again.iter().any(begin), "{again:#?}");
}

#[test]
fn a_wrong_flag_shows_the_usage() {
    let ended = run("--rank 2", &[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("'--rank'"), "{}", ended.stderr);
    assert!(ended.stderr.contains("Usage: vit_fsdp"), "{}", ended.stderr);
}

#[test]
fn an_unknown_strategy_is_refused_with_the_known_ones() {
    let ended = run("--strategy zero9", &[]);
    assert_eq!(ended.code, Some(2));
    let known = "single, ddp, zero1, zero2, fsdp or hybrid:N";
    assert!(ended.stderr.contains("'zero9'"), "{}", ended.stderr);
    assert!(ended.stderr.contains(known), "{}", ended.stderr);
}

#[test]
fn invalid_numbers_of_ranks_are_refused() {
    let cases = [
        (
            "--ranks 0",
            "error: number of ranks: expected at least 1, found 0",
        ),
        (
            "--strategy single --ranks 2",
            "error: strategy single: expected one rank (use ddp for several), found 2 ranks",
        ),
        (
            "--strategy hybrid:3 --ranks 2",
            "error: strategy hybrid: expected a group size that divides the 2 ranks, found 3",
        ),
    ];
    for (args, message) in cases {
        assert_eq!(run(args, &[]).failed(), message, "{args}");
    }
}

#[test]
fn a_missing_folder_is_named() {
    let nowhere = tempfile::tempdir().unwrap().path().join("nowhere");
    let message = run("", &[("--data", &nowhere)]).failed();
    let expected = format!(
        "error: {}: expected the folder cifar-10-batches-bin of CIFAR-10's binary version",
        nowhere.display()
    );
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn a_damaged_data_file_is_named() {
    let data = cifar();
    let file = data.path().join("data_batch_4.bin");
    std::fs::write(&file, vec![0; 3073 + 5]).unwrap();
    let message = run("", &[("--data", data.path())]).failed();
    let expected = format!("error: {}: expected a whole number", file.display());
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn resuming_from_an_empty_folder_is_an_error() {
    let (data, save) = (cifar(), tempfile::tempdir().unwrap());
    let folders = [("--data", data.path()), ("--save", save.path())];
    let message = run("--resume", &folders).failed();
    assert!(
        message.starts_with(&format!("error: {}", save.path().display())),
        "{message}"
    );
}
