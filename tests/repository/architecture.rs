//! The shape of the source: which part may use which, and what every file keeps to.
//!
//! Reviews forget, so a test reads the files. What parts there are stands in `layers.rs`, which files use
//! each other in a circle in `circles.rs`.

use crate::circles::CIRCLES;
use crate::crates::{Crate, Target};
use crate::graph::Graph;
use crate::layers::{EXPERIMENTS, LIBRARY, LOG, MODELS, NN, TRAIN};
use crate::root;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files with a reason for `unsafe`: memory that other ranks read, the functions of CUDA and NCCL and
/// what stands in for them, counting allocations, what a child does before it becomes a program, and
/// mapping a file, telling the system of a file's use, and the call of the matrix product.
const UNSAFE: [&str; 24] = [
    "burn-dist/src/checkpoint/storage/folder/file.rs",
    "burn-dist/nn/src/matmul.rs",
    "burn-dist/src/comm/local.rs",
    "burn-dist/src/comm/thread_group.rs",
    "burn-dist/src/comm/mesh/process_memory.rs",
    "burn-dist/src/comm/mesh/ring.rs",
    "burn-dist/src/comm/device.rs",
    "burn-dist/src/comm/nccl/nccl_comm.rs",
    "burn-dist/src/comm/nccl/gpu.rs",
    "burn-dist/src/comm/nccl/library.rs",
    "burn-dist/src/comm/nccl/preflight.rs",
    "burn-dist/src/comm/nccl/errors.rs",
    "burn-dist/src/launch/supervise/child.rs",
    "burn-dist/src/shard/memory/device.rs",
    "burn-dist/src/telemetry/memory.rs",
    "burn-dist/src/weights/contents.rs",
    "tests/memory/allocator.rs",
    "tests/mock_cuda/src/collective.rs",
    "tests/mock_cuda/src/comm.rs",
    "tests/mock_cuda/src/driver.rs",
    "tests/mock_cuda/src/knobs.rs",
    "tests/nccl/memory.rs",
    "tests/nccl/mock.rs",
    "tests/nccl/real.rs",
];

/// All that models may know of the library.
const KNOWN_TO_MODELS: [&str; 6] = ["unit", "Error", "Noise", "Result", "data", "nn"];

pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// The library's code, without what follows the first `#[cfg(test)]` and without comments.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let code = self.text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().enumerate();
        lines
            .map(|(number, line)| (number + 1, line.trim()))
            .filter(|(_, line)| !line.starts_with("//"))
    }

    /// A file `tests.rs` or a folder `tests` is a module of tests, which its parent declares under
    /// `#[cfg(test)]`.
    pub(crate) fn is_library(&self) -> bool {
        let folders = [
            "burn-dist/src/",
            "burn-dist/nn/src/",
            "models/src/",
            "examples/experiments/src/",
        ];
        let mut folders = folders.into_iter();
        let is_test = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        folders.any(|folder| self.path.starts_with(folder)) && !is_test
    }
}

pub(crate) fn sources() -> Vec<Source> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
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

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// One of the crates.
fn read(root: &str) -> Crate {
    let files = sources().into_iter().map(|s| (s.path, s.text));
    Crate::read(&files.collect(), root)
}

#[test]
fn every_part_uses_only_what_its_row_allows() {
    let crates = [
        ("burn-dist/src", LIBRARY),
        ("burn-dist/log/src", LOG),
        ("burn-dist/nn/src", NN),
        ("burn-dist/train/src", TRAIN),
        ("models/src", MODELS),
        ("examples/experiments/src", EXPERIMENTS),
    ];
    let odd = crates.map(|(folder, rows)| {
        let graph = Graph::of(&read(&format!("{folder}/lib.rs")));
        graph.odd_layers(folder, rows)
    });
    none("against tests/repository/layers.rs", odd.concat());
}

#[test]
fn no_circle_of_files_is_unlisted() {
    let roots = [
        "burn-dist/src/lib.rs",
        "burn-dist/log/src/lib.rs",
        "burn-dist/nn/src/lib.rs",
        "burn-dist/train/src/lib.rs",
        "models/src/lib.rs",
        "examples/experiments/src/lib.rs",
    ];
    let graphs = roots.map(|root| Graph::of(&read(root)));
    let [mut all, others @ ..] = graphs;
    for graph in others {
        all.files.extend(graph.files);
        all.edges.extend(graph.edges);
    }
    none(
        "against tests/repository/circles.rs",
        all.odd_circles(CIRCLES),
    );
}

#[test]
fn models_use_only_the_allowed_names_of_the_library() {
    let models = read("models/src/lib.rs");
    let mut known = BTreeSet::new();
    for (path, module) in &models.modules {
        // What the examples share uses everything, and so does what works on saves.
        if path
            .first()
            .is_some_and(|part| part == "run" || part == "saves")
        {
            continue;
        }
        let imports = module.imports.iter().map(|import| &import.path);
        for names in imports.chain(&module.mentions) {
            if let Some(Target::Foreign(names)) = models.resolve(path, names)
                && names[0] == "burn_dist"
            {
                known.extend(names.get(1).cloned());
            }
        }
    }
    assert!(known.contains("unit"), "no model marks a unit");
    known.retain(|name| !KNOWN_TO_MODELS.contains(&name.as_str()));
    assert!(known.is_empty(), "models use {known:?}");
}

/// Whether this is `let _alone = alone();`.
fn is_alone(statement: &syn::Stmt) -> bool {
    let syn::Stmt::Local(local) = statement else {
        return false;
    };
    let syn::Pat::Ident(name) = &local.pat else {
        return false;
    };
    let Some(syn::Expr::Call(call)) = local.init.as_ref().map(|init| &*init.expr) else {
        return false;
    };
    // Under the name `_` it would be let go at once.
    let syn::Expr::Path(function) = &*call.func else {
        return false;
    };
    name.ident == "_alone" && function.path.is_ident("alone")
}

/// The first statement of every test that may be disturbed by what another one draws.
#[test]
fn tests_that_draw_from_a_seed_hold_the_lock() {
    let mut odd = Vec::new();
    let mut count = 0;
    for source in sources()
        .iter()
        .filter(|s| s.path.starts_with("tests/seeded/"))
    {
        let file = syn::parse_file(&source.text).unwrap();
        for item in file.items {
            let syn::Item::Fn(function) = item else {
                continue;
            };
            let has = |name: &str| function.attrs.iter().any(|a| a.path().is_ident(name));
            // What is ignored is a process of another test.
            if !has("test") || has("ignore") {
                continue;
            }
            count += 1;
            if !function.block.stmts.first().is_some_and(is_alone) {
                odd.push(format!("{}: {}", source.path, function.sig.ident));
            }
        }
    }
    assert!(count > 40, "{count} tests");
    none("these do not begin with `let _alone = alone();`", odd);
}

#[test]
fn every_file_begins_with_a_module_doc() {
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
    let most = |s: &Source| {
        if s.path.starts_with("tests/") {
            470
        } else {
            450
        }
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
fn library_code_does_not_call_div_scalar() {
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
fn library_code_does_not_call_panicking_functions() {
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
