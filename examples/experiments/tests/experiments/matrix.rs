//! Which runs a matrix is.

use crate::generated::{cli, matrix};
use experiments::matrix::Experiment;
use experiments::runner::{ELSEWHERE, commands};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn axes_span_all_combinations_that_can_be() {
    let found = matrix(
        "--strategies ddp,fsdp,hybrid:2 --setups 1_1,1_2,2_2 --batches 4,8 --rates 1e-3,1e-4",
    );
    // hybrid:2 does not divide one rank.
    assert_eq!(found.experiments.len(), (2 * 3 + 2) * 2 * 2);
    assert_eq!(found.left_out.len(), 4);
    assert!(
        found.left_out[0].contains("groups of 2 do not divide 1 ranks"),
        "{:?}",
        found.left_out
    );
    let names: BTreeSet<_> = found.experiments.iter().map(Experiment::name).collect();
    assert_eq!(names.len(), found.experiments.len());
}

#[test]
fn a_link_is_of_several_nodes_alone() {
    let found = matrix("--strategies ddp --setups 1_2,2_1 --link near --link far --link 1gbit,5ms");
    let links: Vec<_> = found
        .experiments
        .iter()
        .map(|one| one.link.clone().map(|l| l.label))
        .collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(links, [None, some("near"), some("far"), some("1gbit,5ms")]);
    let commands_of =
        |one: &Experiment| commands(one, Path::new("vit"), Path::new("to"), 1, ELSEWHERE);
    let near = commands_of(&found.experiments[1]);
    assert_eq!(near.len(), 2);
    let line = near[1].to_string();
    for part in [
        "RAYON_NUM_THREADS=1 vit",
        "--nnodes 2 --node-rank 1",
        "--link 10gbit,50us",
        "--setup 2_1",
        "--log-to to",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(
        !commands_of(&found.experiments[0])[0]
            .to_string()
            .contains("--link")
    );
}

#[test]
fn presets_are_those_of_the_studies() {
    let a = matrix("--study a");
    let of = |one: &Experiment| (one.strategy.to_string(), one.setup.to_string(), one.batch);
    let expected = [
        ("ddp", "1_2", 48),
        ("fsdp", "1_2", 48),
        ("ddp", "2_1", 96),
        ("fsdp", "2_1", 96),
    ];
    let found: Vec<_> = a.experiments.iter().map(of).collect();
    assert_eq!(
        found,
        expected.map(|(s, setup, b)| (s.to_owned(), setup.to_owned(), b))
    );
    assert!(
        a.experiments
            .iter()
            .all(|one| one.recipe.epochs == 1 && one.precision.to_string() == "f16")
    );

    let b = matrix("--study b");
    let count = |part: &str| b.experiments.iter().filter(|one| one.part == part).count();
    assert_eq!((count("b1"), count("b2"), count("b3")), (9, 12, 4));
    // Both are for two cores.
    let most = a
        .experiments
        .iter()
        .chain(&b.experiments)
        .map(|one| one.setup.ranks())
        .max();
    assert_eq!(most, Some(2));

    let full = matrix("--study b --experiment 1 --full");
    let setups: BTreeSet<_> = full
        .experiments
        .iter()
        .map(|one| one.setup.to_string())
        .collect();
    assert_eq!(
        setups.into_iter().collect::<Vec<_>>(),
        ["1_1", "1_4", "2_2"]
    );
    assert!(
        full.experiments
            .iter()
            .all(|one| one.model.to_string() == "bert-distil")
    );
    let line = commands(
        &full.experiments[0],
        Path::new("bert_fsdp"),
        Path::new("to"),
        1,
        ELSEWHERE,
    )[0]
    .to_string();
    for part in [
        "--accumulate 4",
        "--schedule linear",
        "--train-size 8000",
        "--max-length 500",
        "--device cuda",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("RAYON"), "{line}");
    let features = full.experiments[0].recipe.features();
    assert_eq!(features, "utilisation,images,cuda");
}

#[test]
fn flags_replace_parts_of_a_study() {
    let found = matrix(
        "--study b --experiment 2 --models vit-tiny --setups 1_2 --epochs 1 --train-size 64 --seed 3",
    );
    assert_eq!(found.experiments.len(), 2);
    let recipe = &found.experiments[0].recipe;
    assert_eq!(
        (
            recipe.epochs,
            recipe.train_size,
            recipe.seed,
            recipe.accumulate
        ),
        (1, Some(64), 3, 4)
    );
    assert_eq!(cli("--study b --experiment 1,3").name(), "study-b-1-3");
}

#[test]
fn every_command_of_the_page_is_one() {
    let page = include_str!("../../README.md").replace("\\\n", " ");
    let commands = page
        .lines()
        .filter_map(|line| line.strip_prefix("cargo run --release -p experiments"));
    let mut count = 0;
    for command in commands {
        let arguments = command.split('#').next().unwrap_or_default().trim();
        let found = matrix(arguments.trim_start_matches("-- "));
        assert!(!found.experiments.is_empty());
        count += 1;
    }
    assert!(count >= 5, "{count}");
    // And every flag that it names is there.
    use clap::CommandFactory;
    let flags = experiments::cli::Cli::command();
    let words = page.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    for word in words
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|word| !word.starts_with('-'))
    {
        let of_cargo = ["release", "help", ""];
        let is_flag = flags
            .get_arguments()
            .any(|argument| argument.get_long() == Some(word));
        assert!(is_flag || of_cargo.contains(&word), "--{word}");
    }
}
