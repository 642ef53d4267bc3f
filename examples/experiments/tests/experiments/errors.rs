//! What is told where something is wrong.

use crate::generated::{cli, finish_all, matrix};
use clap::Parser;
use experiments::cli::Cli;
use experiments::matrix::{Matrix, Program};
use experiments::runner::Programs;
use experiments::{report, results, session};
use std::fs;

fn refused(arguments: &str) -> String {
    let words = std::iter::once("experiments").chain(arguments.split_whitespace());
    Cli::try_parse_from(words).unwrap_err().to_string()
}

#[test]
fn an_unknown_value_of_an_axis_names_the_known_ones() {
    for (arguments, parts) in [
        (
            "--models vit-huge",
            &["vit-huge", "vit-{tiny|cifar", "bert-{tiny|mini"][..],
        ),
        ("--strategies fdsp", &["fdsp", "zero2", "hybrid:N"]),
        ("--strategies hybrid:0", &["hybrid:0"]),
        ("--setups 1x2", &["1x2", "1_4 or 2_2"]),
        ("--batches 0", &["0", "at least 1"]),
        ("--rates fast", &["fast", "2e-4"]),
        ("--precisions f8", &["f8", "bf16"]),
        ("--link 5ms", &["5ms", "1gbit,5ms", "near"]),
        ("--link 1gbit,5", &["1gbit,5"]),
        ("--study c", &["[possible values: a, b]"]),
        ("--study b --experiment 4", &["4", "1..=3"]),
        ("--full", &["--study"]),
    ] {
        let error = refused(arguments);
        for part in parts {
            assert!(error.contains(part), "{arguments}: without {part}: {error}");
        }
    }
}

#[test]
fn a_matrix_of_nothing_says_why() {
    let error = cli("--strategies single --setups 1_2")
        .matrix()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("at least one run") && error.contains("single is for one rank"),
        "{error}"
    );
    let error = cli("--study a --experiment 1")
        .matrix()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--experiment") && error.contains("--study b"),
        "{error}"
    );
    let error = cli("--name a/b").matrix().unwrap_err().to_string();
    assert!(error.contains("--name"), "{error}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Programs::in_folder(folder.path(), &[Program::Bert])
        .unwrap_err()
        .to_string();
    for part in ["bert_fsdp", "no such file", "--program-dir"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_folder_of_another_matrix_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    matrix("--setups 1_1").claim(&out).unwrap();
    let before = fs::read(out.join("matrix.json")).unwrap();
    // The same again is no other.
    matrix("--setups 1_1").claim(&out).unwrap();
    for (arguments, parts) in [
        ("--setups 1_1,1_2", &["without", "1_2"][..]),
        ("--setups 1_1 --strategies ddp", &["with", "fsdp"]),
        ("--setups 1_1 --epochs 7", &["another recipe"]),
    ] {
        let error = matrix(arguments).claim(&out).unwrap_err().to_string();
        for part in parts.iter().chain(&["--out"]) {
            assert!(error.contains(part), "{arguments}: without {part}: {error}");
        }
    }
    assert_eq!(fs::read(out.join("matrix.json")).unwrap(), before);

    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.tex"), "").unwrap();
    let error = matrix("").claim(&other).unwrap_err().to_string();
    assert!(
        error.contains("thesis.tex") && error.contains("--out"),
        "{error}"
    );
    assert!(!other.join("matrix.json").exists());
}

#[test]
fn two_starts_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let lock = fs::File::create(folder.path().join(".lock")).unwrap();
    lock.try_lock().unwrap();
    let asked = format!("--out {} --program-dir /nowhere", folder.path().display());
    let error = session::run(&cli(&asked)).unwrap_err().to_string();
    assert!(error.contains("another `experiments`"), "{error}");
}

#[test]
fn damaged_records_are_named_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let matrix = matrix("--setups 1_1 --strategies ddp");
    finish_all(&out, &matrix);
    let steps = out
        .join("runs")
        .join(matrix.experiments[0].name())
        .join("steps.jsonl");
    let text = fs::read_to_string(&steps).unwrap();
    // A line that was cut off by a kill is left out.
    fs::write(&steps, format!("{text}{{\"step\":")).unwrap();
    let whole = results::read(&out, &matrix).unwrap();
    assert_eq!(whole[0].steps.len(), text.lines().count());
    report::write(&out, &matrix, &whole).unwrap();
    fs::write(&steps, format!("{text}no record\n")).unwrap();
    let error = results::read(&out, &matrix).unwrap_err().to_string();
    let line = format!("line {}", text.lines().count() + 1);
    assert!(
        error.contains("steps.jsonl") && error.contains(&line),
        "{error}"
    );
    let error = Matrix::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("matrix.json"), "{error}");
}
