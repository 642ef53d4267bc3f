//! The character GPT.

use super::run::{Ended, Running};
use std::fmt::Write;

fn run(args: &str, folders: &[(&str, &std::path::Path)]) -> Ended {
    Running::start("gpt", args, folders).end()
}

#[test]
fn it_learns_a_text_alike_on_1_2_and_3_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("numbers.txt");
    let mut text = String::new();
    for number in 100..400 {
        write!(text, "{number} ").unwrap();
    }
    std::fs::write(&file, text).unwrap();
    let output = |how: &str| run(&format!("--epochs 6 {how}"), &[("--text", &file)]).succeeded();
    let of = |how: &str| {
        let output = output(&format!("--dropout 0 {how}"));
        let loss = |line: &String| {
            let (_, rest) = line.split_once(": loss ")?;
            rest.split(' ').next()?.parse::<f64>().ok()
        };
        let losses: Vec<f64> = output.iter().filter_map(loss).collect();
        assert_eq!(losses.len(), 6, "{output:?}");
        assert!(losses[5] < 0.75 * losses[0], "{losses:?}");
        losses
    };
    let one = of("--ranks 1");
    for how in ["--ranks 2", "--ranks 3", "--nproc-per-node 2"] {
        for (a, b) in one.iter().zip(of(how)) {
            assert!((a - b).abs() < 0.01, "{how}: {a} and {b}");
        }
    }
    // What is dropped depends on the ranks, not on how they run: the same losses, and the same text.
    let threads = output("--ranks 2");
    let processes = output("--nproc-per-node 2");
    let processes: Vec<&str> = processes
        .iter()
        .map(|line| line.strip_prefix("[0]: ").unwrap_or(line))
        .collect();
    assert_eq!(processes, threads);
    assert_eq!(output("--ranks 2"), threads);
}

#[test]
fn a_text_that_is_not_there_or_too_short_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    let message = run("", &[("--text", &file)]).failed();
    assert!(message.contains("expected a text"), "{message}");
    std::fs::write(&file, "too short").unwrap();
    let message = run("", &[("--text", &file)]).failed();
    assert!(message.contains("at least 1 sample"), "{message}");
    let message = run("--dropout 1.5", &[]).failed();
    assert!(message.contains("--dropout: expected 0 to 1"), "{message}");
}
