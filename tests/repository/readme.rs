//! What the README promises exists: its commands, its tour, and the pages it points at.

use crate::root;

pub(crate) fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Everything between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| !line.starts_with("```"));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn every_file_it_names_exists() {
    let readme = read("README.md");
    let files = quoted(&readme).filter(|q| q.ends_with(".rs") || q.ends_with(".md"));
    let mut found = 0;
    for file in files {
        read(file);
        found += 1;
    }
    assert!(found >= 10, "{found} files");
}

#[test]
fn ci_runs_its_test_command() {
    let readme = read("README.md");
    let test = readme.lines().find(|line| line.starts_with("cargo test"));
    assert!(read(".ci/run").lines().any(|line| Some(line) == test));
}

#[test]
fn its_options_are_those_of_the_example() {
    let help = [
        "models/src/run/args.rs",
        "models/src/run/bert.rs",
        "models/src/run/pretrained.rs",
        "models/src/run/vit.rs",
        "burn-dist/src/launch/flags/arguments.rs",
        "burn-dist/src/bin/burn-dist-run.rs",
    ];
    let help = help.map(read).concat();
    let readme = read("README.md");
    let words = readme.split_whitespace().skip_while(|w| *w != "--example");
    let words = words.map(|w| w.trim_matches(['`', ',', '.', ';', '(', ')']));
    let options = words.filter(|w| w.starts_with("--") && w.len() > 2);
    let cargo = [
        "--example",
        "--features",
        "--release",
        "--workspace",
        "--help",
    ];
    for option in options.filter(|o| !cargo.contains(o)) {
        let name = option.split('=').next().unwrap_or(option);
        let field = format!("{}: ", name.trim_start_matches('-').replace('-', "_"));
        assert!(help.contains(&field), "{option}");
    }
}
