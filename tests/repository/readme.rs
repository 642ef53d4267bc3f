//! What the README and the guide promise exists: commands, options, files, and the pages they link to.

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
fn every_file_that_a_page_names_exists() {
    let mut found = 0;
    for page in ["README.md", "docs/guide.md", "docs/architecture.md"] {
        let page = read(page);
        let files = quoted(&page).filter(|q| q.ends_with(".rs") && q.contains('/'));
        for file in files {
            read(file);
            found += 1;
        }
    }
    assert!(found >= 10, "{found} files");
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let pages = [
        "CONTRIBUTING.md",
        "README.md",
        "RELEASES.md",
        "SECURITY.md",
        "docs/architecture.md",
        "docs/glossary.md",
        "docs/gpu.md",
        "docs/guide.md",
        "docs/performance.md",
        "docs/records.md",
        "docs/validation.md",
        "examples/README.md",
        "examples/experiments/README.md",
    ];
    let mut found = 0;
    for page in pages {
        let text = read(page);
        let folder = root().join(page).parent().unwrap().to_path_buf();
        let links = text.split("](").skip(1);
        let links = links.filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap_or_default();
            assert!(folder.join(file).exists(), "{page} links to {link}");
            found += 1;
        }
    }
    assert!(found >= 10, "{found} links");
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let readme = read("README.md");
    let test = readme.lines().find(|line| line.starts_with("cargo test"));
    assert!(read(".ci/run").lines().any(|line| Some(line) == test));
}

#[test]
fn every_option_that_a_page_names_is_one_of_the_programs() {
    let help = [
        "models/src/run/args.rs",
        "models/src/run/log_args.rs",
        "models/src/run/lora_args.rs",
        "models/src/run/optimizer.rs",
        "models/src/run/bert.rs",
        "models/src/run/image_args.rs",
        "models/src/run/pretrained.rs",
        "models/src/run/sharding_args.rs",
        "models/src/run/vit.rs",
        "burn-dist/src/launch/flags/arguments.rs",
        "burn-dist/src/bin/burn-dist-run.rs",
        "examples/experiments/src/cli.rs",
    ];
    let help = help.map(read).concat();
    for page in ["README.md", "docs/guide.md"] {
        let text = read(page);
        let words = text.split_whitespace().skip_while(|w| *w != "--example");
        let words = words.map(|w| w.trim_matches(['`', ',', '.', ';', '(', ')']));
        let options = words.filter(|w| w.starts_with("--") && w.len() > 2);
        let cargo = ["--example", "--features", "--release", "--help"];
        for option in options.filter(|o| !cargo.contains(o)) {
            let name = option.split('=').next().unwrap_or(option);
            let field = format!("{}: ", name.trim_start_matches('-').replace('-', "_"));
            assert!(help.contains(&field), "{page} names {option}");
        }
    }
}
