//! The shape of the source: which part may know which, and what every file keeps to.
//!
//! Reviews forget, so a test reads the files.

use crate::root;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files with a reason for `unsafe`: memory that other ranks read, the functions of CUDA and NCCL and
/// what stands in for them, counting allocations, what a child does before it becomes a program, and
/// mapping a file.
const UNSAFE: [&str; 21] = [
    "burn-dist/src/comm/local.rs",
    "burn-dist/src/comm/meeting.rs",
    "burn-dist/src/comm/mesh/ring.rs",
    "burn-dist/src/comm/device.rs",
    "burn-dist/src/comm/nccl/clique.rs",
    "burn-dist/src/comm/nccl/gpu.rs",
    "burn-dist/src/comm/nccl/library.rs",
    "burn-dist/src/comm/nccl/preflight.rs",
    "burn-dist/src/comm/nccl/text.rs",
    "burn-dist/src/launch/supervise/child.rs",
    "burn-dist/src/shard/memory/device.rs",
    "burn-dist/src/telemetry/memory.rs",
    "burn-dist/src/weights/files.rs",
    "tests/memory.rs",
    "tests/mock_cuda/src/collective.rs",
    "tests/mock_cuda/src/comm.rs",
    "tests/mock_cuda/src/driver.rs",
    "tests/mock_cuda/src/knobs.rs",
    "tests/nccl/memory.rs",
    "tests/nccl/mock.rs",
    "tests/nccl/real.rs",
];

/// What each part of the library may not know.
const UNKNOWN_TO: [(&str, &[&str]); 12] = [
    (
        "burn-dist/src/comm",
        &[
            "layout",
            "strategy",
            "plan",
            "world",
            "launch",
            "shard",
            "checkpoint",
            "data",
            "telemetry",
            "weights",
        ],
    ),
    (
        "burn-dist/src/rendezvous",
        &[
            "comm",
            "layout",
            "strategy",
            "plan",
            "world",
            "launch",
            "shard",
            "checkpoint",
            "data",
            "telemetry",
            "weights",
            "stop",
        ],
    ),
    (
        "burn-dist/src/stop.rs",
        &[
            "comm",
            "layout",
            "strategy",
            "plan",
            "world",
            "launch",
            "shard",
            "checkpoint",
            "data",
            "telemetry",
            "weights",
            "rendezvous",
        ],
    ),
    (
        "burn-dist/src/layout.rs",
        &[
            "comm",
            "strategy",
            "plan",
            "world",
            "launch",
            "shard",
            "checkpoint",
            "data",
            "telemetry",
            "weights",
        ],
    ),
    (
        "burn-dist/src/strategy.rs",
        &[
            "comm",
            "plan",
            "world",
            "launch",
            "shard",
            "checkpoint",
            "data",
            "telemetry",
            "weights",
        ],
    ),
    (
        "burn-dist/src/plan.rs",
        &[
            "world",
            "launch",
            "shard",
            "checkpoint",
            "data",
            "telemetry",
            "weights",
        ],
    ),
    (
        "burn-dist/src/world.rs",
        &[
            "layout",
            "strategy",
            "plan",
            "launch",
            "shard",
            "checkpoint",
            "data",
            "telemetry",
            "weights",
        ],
    ),
    (
        "burn-dist/src/shard",
        &["launch", "checkpoint", "data", "telemetry", "weights"],
    ),
    (
        "burn-dist/src/checkpoint",
        &["launch", "data", "telemetry", "weights"],
    ),
    (
        "burn-dist/src/weights",
        &["launch", "checkpoint", "data", "telemetry"],
    ),
    (
        "burn-dist/src/data",
        &[
            "comm",
            "layout",
            "strategy",
            "plan",
            "launch",
            "shard",
            "checkpoint",
            "telemetry",
            "weights",
        ],
    ),
    (
        "burn-dist/src/launch",
        &[
            "layout",
            "strategy",
            "plan",
            "shard",
            "checkpoint",
            "data",
            "telemetry",
            "weights",
        ],
    ),
];

/// All that models may know of the library.
const KNOWN_TO_MODELS: [&str; 5] = ["unit", "Error", "Noise", "Result", "data"];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The library's code, without what follows the first `#[cfg(test)]` and without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let code = self.text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().enumerate();
        lines
            .map(|(number, line)| (number + 1, line.trim()))
            .filter(|(_, line)| !line.starts_with("//"))
    }

    fn is_library(&self) -> bool {
        self.path.starts_with("burn-dist/src") || self.path.starts_with("models/src")
    }
}

fn sources() -> Vec<Source> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => collect(&path, files),
                false if path.extension().is_some_and(|e| e == "rs") => files.push(path),
                false => {}
            }
        }
    }
    let root = root();
    let mut files = Vec::new();
    let folders = ["burn-dist", "models", "examples", "benches", "tests"];
    for folder in folders.map(|f| root.join(f)).iter().filter(|f| f.is_dir()) {
        collect(folder, &mut files);
    }
    files.sort();
    let read = |path: PathBuf| Source {
        path: path
            .strip_prefix(&root)
            .unwrap()
            .display()
            .to_string()
            .replace('\\', "/"),
        text: fs::read_to_string(&path).unwrap(),
    };
    let sources: Vec<_> = files.into_iter().map(read).collect();
    assert!(sources.len() > 40, "the sources were not found");
    sources
}

/// Names of the crate's parts that a line of code uses, as `crate::part` or `burn_dist::part`.
fn used<'a>(line: &'a str, krate: &'a str) -> impl Iterator<Item = &'a str> {
    let uses = line
        .match_indices(krate)
        .map(move |(at, _)| &line[at + krate.len()..]);
    uses.flat_map(|rest| match rest.strip_prefix('{') {
        Some(group) => group.split('}').next().unwrap_or_default().split(','),
        None => rest[..rest.find(',').unwrap_or(rest.len())].split(','),
    })
    .map(|name| {
        let mut words = name
            .trim()
            .split(|c: char| !c.is_alphanumeric() && c != '_');
        words.next().unwrap_or_default()
    })
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn arrows_point_down() {
    let mut upward = Vec::new();
    for source in sources() {
        for (part, unknown) in UNKNOWN_TO {
            if !source.path.starts_with(part) {
                continue;
            }
            for (number, line) in source.code() {
                for name in used(line, "crate::").filter(|name| unknown.contains(name)) {
                    upward.push(format!("{}:{number} uses {name}", source.path));
                }
            }
        }
    }
    none("these know what they should not", upward);
}

#[test]
fn the_arrows_are_read_from_real_folders() {
    let sources = sources();
    for (part, _) in UNKNOWN_TO {
        assert!(
            sources.iter().any(|s| s.path.starts_with(part)),
            "{part} is gone"
        );
    }
    let names: Vec<_> = used(
        "use crate::{comm::Op, plan}; crate::shard::unit()",
        "crate::",
    )
    .collect();
    assert_eq!(names, ["comm", "plan", "shard"]);
}

/// A model or its data; `run` is what the examples share, and they use everything.
fn is_model(source: &Source) -> bool {
    let path = source.path.strip_prefix("models/src/");
    path.is_some_and(|path| !path.starts_with("run/"))
}

#[test]
fn models_know_only_the_boundary() {
    let mut known = BTreeSet::new();
    for source in sources().iter().filter(|s| is_model(s)) {
        for (_, line) in source.code() {
            known.extend(used(line, "burn_dist::").map(str::to_string));
        }
    }
    assert!(known.contains("unit"), "no model marks a unit");
    known.retain(|name| !KNOWN_TO_MODELS.contains(&name.as_str()));
    assert!(known.is_empty(), "models use {known:?}");
}

#[test]
fn every_file_says_why_it_exists() {
    let silent = sources().into_iter().filter(|s| !s.text.starts_with("//!"));
    none(
        "these do not begin with //!",
        silent.map(|s| s.path).collect(),
    );
}

#[test]
fn files_are_short() {
    let lines = |s: &Source| s.text.lines().count();
    // A list of failures may be long.
    let most = |s: &Source| match s.path.starts_with("tests/") {
        true => 470,
        false => 450,
    };
    let long = sources().into_iter().filter(|s| lines(s) > most(s));
    none(
        "too long",
        long.map(|s| format!("{}: {}", s.path, lines(&s))).collect(),
    );
}

#[test]
fn unsafe_is_where_it_is_expected() {
    let uses = |s: &Source| {
        s.code().any(|(_, line)| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe")
        })
    };
    let found: Vec<_> = sources().into_iter().filter(uses).map(|s| s.path).collect();
    let unexpected: Vec<_> = found
        .into_iter()
        .filter(|p| !UNSAFE.contains(&p.as_str()))
        .collect();
    none("unsafe code in", unexpected);
}

/// Burn computes the gradient of a division by a number through f32, also in f64.
#[test]
fn nothing_that_trains_divides_by_a_number() {
    let sources = sources();
    let lines = sources
        .iter()
        .filter(|s| s.is_library())
        .flat_map(|source| {
            let divides = |(_, line): &(usize, &str)| line.contains("div_scalar(");
            let lines = source.code().filter(divides);
            lines.map(|(number, line)| format!("{}:{number} {line}", source.path))
        });
    none("mul_scalar(1.0 / x) instead of", lines.collect());
}

#[test]
fn library_code_does_not_panic_on_purpose() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| s.is_library()) {
        for (number, line) in source.code() {
            let words = [
                ".unwrap()",
                ".expect(",
                "panic!(",
                "todo!(",
                "unimplemented!(",
            ];
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number} {line}", source.path));
            }
        }
    }
    none("a Result instead of", found);
}
