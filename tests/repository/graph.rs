//! Which file of a crate uses which, where that goes in a circle, and which part may use which.

use crate::crates::{Crate, Path, Target};
use std::collections::{BTreeMap, BTreeSet};

/// Files that use others, and by which path they name them.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// All files of the crate.
    pub(crate) files: BTreeSet<String>,
    /// From the file that uses to the file that defines, with the first such path.
    pub(crate) edges: BTreeMap<(String, String), String>,
}

/// A part of a crate, a folder or a file without its `.rs`, and the parts it may use besides itself.
///
/// A file belongs to the part with the longest name that fits; a part stands for all parts within it where
/// others use it. So `shard` may be divided by rows such as `shard/unit`, and its users need not know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) part: &'static str,
    pub(crate) uses: &'static [&'static str],
}

/// Files that may use each other in a circle, and why.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circle {
    pub(crate) files: &'static [&'static str],
    pub(crate) why: &'static str,
}

impl Graph {
    /// The graph of a crate.
    ///
    /// Where a module names an item, the file that defines it counts, not those that export it on the way. A
    /// module's exports of what lies within it are no use, whoever takes them.
    pub(crate) fn of(krate: &Crate) -> Self {
        let mut graph = Self::default();
        for (path, module) in &krate.modules {
            graph.files.insert(module.file.clone());
            let imports = module.imports.iter();
            let imports = imports.map(|import| (&import.path, import.is_export()));
            let mentions = module.mentions.iter().map(|mention| (mention, false));
            for (names, is_export) in imports.chain(mentions) {
                let Some(used) = definition(krate, path, names) else {
                    continue;
                };
                if is_export && used.starts_with(path) {
                    continue;
                }
                let file = krate.modules[used].file.clone();
                if file != module.file {
                    let edge = (module.file.clone(), file);
                    graph.edges.entry(edge).or_insert_with(|| names.join("::"));
                }
            }
        }
        graph
    }

    /// Files that use each other, each set as large as it can be.
    pub(crate) fn circles(&self) -> Vec<BTreeSet<String>> {
        let mut uses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (from, to) in self.edges.keys() {
            uses.entry(from).or_default().push(to);
        }
        let reached: BTreeMap<&str, BTreeSet<&str>> = uses
            .keys()
            .map(|file| (*file, reached_from(file, &uses)))
            .collect();
        let mut circles = BTreeSet::new();
        for (file, others) in &reached {
            let reaches_back =
                |other: &&&str| reached.get(**other).is_some_and(|r| r.contains(file));
            let circle: BTreeSet<String> = others
                .iter()
                .filter(reaches_back)
                .map(|f| f.to_string())
                .collect();
            if circle.contains(*file) {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    /// What is wrong with circles, given those that are allowed.
    pub(crate) fn odd_circles(&self, allowed: &[Circle]) -> Vec<String> {
        let circles = self.circles();
        let is_of = |listed: &Circle, file: &str| listed.files.contains(&file);
        let mut odd = Vec::new();
        for circle in &circles {
            let is_allowed = |listed: &Circle| circle.iter().all(|file| is_of(listed, file));
            if allowed.iter().any(is_allowed) {
                continue;
            }
            odd.push(format!("a circle of {} files:", circle.len()));
            for ((from, to), path) in &self.edges {
                if circle.contains(from) && circle.contains(to) {
                    odd.push(format!("    {from} uses {to} as {path}"));
                }
            }
        }
        for listed in allowed {
            let is_there = |file: &&&str| {
                circles.iter().any(|circle| {
                    circle.contains(**file) && circle.iter().all(|other| is_of(listed, other))
                })
            };
            let gone: Vec<_> = listed.files.iter().filter(|file| !is_there(file)).collect();
            // What another circle has swallowed is said above.
            let gone = gone
                .into_iter()
                .filter(|file| !circles.iter().any(|c| c.contains(**file)));
            odd.extend(gone.map(|file| format!("listed, but gone: {file} ({})", listed.why)));
        }
        odd
    }

    /// What is wrong with layers: a file of none, a use that no row allows, and rows that say too much.
    ///
    /// Files lie in `folder`. A row may name rows above it alone, so that no rows make a circle.
    pub(crate) fn odd_layers(&self, folder: &str, layers: &[Layer]) -> Vec<String> {
        let mut odd = Vec::new();
        let part = |file: &str| -> Option<&'static str> {
            let name = file.strip_prefix(folder)?.strip_prefix('/')?;
            let name = name.strip_suffix(".rs")?;
            let parts = layers.iter().map(|layer| layer.part);
            parts
                .filter(|part| covers(part, name))
                .max_by_key(|part| part.len())
        };
        let place = |part: &str| layers.iter().position(|layer| layer.part == part);
        let mut is_filled = BTreeSet::new();
        for file in &self.files {
            match part(file) {
                Some(part) => drop(is_filled.insert(part)),
                // A file of another crate, which has a row there.
                None if !file.starts_with(folder) => {}
                None => odd.push(format!("{file} belongs to no row")),
            }
        }
        let mut is_used = BTreeSet::new();
        for ((from, to), path) in &self.edges {
            let (Some(user), Some(used)) = (part(from), part(to)) else {
                continue;
            };
            if user == used {
                continue;
            }
            let row = &layers[place(user).unwrap_or_default()];
            match row.uses.iter().find(|allowed| covers(allowed, used)) {
                Some(allowed) => drop(is_used.insert((user, *allowed))),
                None => odd.push(format!(
                    "{from} uses {to} as {path}: {user} may not use {used}"
                )),
            }
        }
        for (at, layer) in layers.iter().enumerate() {
            let part = layer.part;
            if !is_filled.contains(part) {
                odd.push(format!("the row {part} has no files"));
            }
            for used in layer.uses {
                let below = layers.iter().filter(|other| covers(used, other.part));
                let places: Vec<_> = below.filter_map(|other| place(other.part)).collect();
                if places.is_empty() {
                    odd.push(format!("the row {part} names {used}, which is none"));
                } else if places.iter().any(|place| *place >= at) {
                    odd.push(format!(
                        "the row {part} names {used}, which is not above it"
                    ));
                } else if !is_used.contains(&(part, *used)) {
                    odd.push(format!(
                        "the row {part} allows {used}, which it does not use"
                    ));
                }
            }
        }
        odd
    }
}

/// All that a file uses, and what these use.
fn reached_from<'a>(file: &str, uses: &BTreeMap<&str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = uses.get(file).cloned().unwrap_or_default();
    while let Some(next) = open.pop() {
        if let Some(first) = uses.get(next).filter(|_| !reached.contains(next)) {
            open.extend(first);
        }
        reached.insert(next);
    }
    reached
}

/// Whether a part is this one or lies within it.
fn covers(part: &str, name: &str) -> bool {
    let rest = name.strip_prefix(part);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The module that defines the item that a path names, if that is of this crate.
///
/// A path to a module is no use of it yet: what is then taken from it is named too.
fn definition<'a>(krate: &'a Crate, module: &[String], names: &[String]) -> Option<&'a Path> {
    match krate.resolve(module, names)? {
        Target::Item((path, _)) => krate.modules.get_key_value(&path).map(|(path, _)| path),
        Target::Module(_) | Target::Foreign(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The graph of a crate whose files lie in `a`.
    fn graph(files: &[(&str, &str)]) -> Graph {
        let files = files
            .iter()
            .map(|(path, text)| (format!("a/{path}"), text.to_string()));
        Graph::of(&Crate::read(&files.collect(), "a/lib.rs"))
    }

    fn edges(graph: &Graph) -> Vec<String> {
        let edges = graph.edges.keys();
        edges
            .map(|(from, to)| format!("{from} {to}").replace("a/", ""))
            .collect()
    }

    #[test]
    fn a_path_of_any_form_leads_to_the_file_that_defines_the_item() {
        let found = graph(&[
            ("lib.rs", "mod one; mod two; pub use one::One;"),
            ("one.rs", "pub struct One; pub fn one() {}"),
            (
                "two/mod.rs",
                "mod deep; mod inner { pub fn far() { super::super::one::one() } }",
            ),
            (
                "two/deep.rs",
                "use crate::{One as Other, one::{self, *}}; fn f(_: Other) { one() }",
            ),
        ]);
        assert_eq!(edges(&found), ["two/deep.rs one.rs", "two/mod.rs one.rs"]);
    }

    #[test]
    fn exports_are_followed_and_are_no_use_of_the_parent() {
        let found = graph(&[
            ("lib.rs", "mod part; mod user;"),
            (
                "part/mod.rs",
                "mod inner; mod other; pub(crate) use other::Again;",
            ),
            ("part/inner.rs", "pub(crate) struct Thing;"),
            (
                "part/other.rs",
                "pub(crate) use super::inner::Thing as Again;",
            ),
            ("user.rs", "use crate::part::Again; use crate::part;"),
        ]);
        assert_eq!(
            edges(&found),
            ["part/other.rs part/inner.rs", "user.rs part/inner.rs"]
        );
        assert!(found.odd_circles(&[]).is_empty());
    }

    #[test]
    fn a_function_may_be_called_as_a_module_is() {
        let found = graph(&[
            ("lib.rs", "mod part; mod user; pub use part::part;"),
            (
                "part/mod.rs",
                "mod inner; pub(crate) mod part; pub use part::part;",
            ),
            ("part/part.rs", "pub fn part() {} pub struct Part;"),
            ("part/inner.rs", ""),
            (
                "user.rs",
                "use crate::part; fn f(_: part::part::Part) { part() }",
            ),
        ]);
        assert_eq!(edges(&found), ["user.rs part/part.rs"]);
    }

    #[test]
    fn code_for_tests_is_left_out_and_features_are_not() {
        let found = graph(&[
            ("lib.rs", "mod one; mod two; mod three; mod four;"),
            ("one.rs", "pub fn f() {}"),
            ("two.rs", "#[cfg(test)] mod tests { use crate::one::f; }"),
            ("three.rs", "#[cfg(feature = \"x\")] use crate::one::f;"),
            (
                "four.rs",
                "#[cfg(not(test))] fn g() { vec![crate::one::f()]; }",
            ),
        ]);
        assert_eq!(edges(&found), ["four.rs one.rs", "three.rs one.rs"]);
    }

    /// Two files that use each other, one of them through an export.
    fn circle() -> Graph {
        graph(&[
            ("lib.rs", "mod one; mod two; mod three; pub use two::Two;"),
            ("one.rs", "pub struct One(crate::Two);"),
            ("two.rs", "use super::one::One; pub struct Two;"),
            ("three.rs", "fn f(one: crate::one::One) {}"),
        ])
    }

    #[test]
    fn a_circle_is_found_and_may_be_allowed() {
        let found = circle();
        assert_eq!(
            found.circles(),
            [["a/one.rs", "a/two.rs"].map(String::from).into()]
        );
        let odd = found.odd_circles(&[]);
        assert_eq!(odd[0], "a circle of 2 files:");
        assert!(
            odd[1].contains("a/one.rs uses a/two.rs as crate::Two"),
            "{odd:?}"
        );
        let files = &["a/one.rs", "a/two.rs"];
        assert!(found.odd_circles(&[Circle { files, why: "" }]).is_empty());
        // A list of a part of it allows nothing.
        let files = &["a/one.rs"];
        assert_eq!(found.odd_circles(&[Circle { files, why: "" }]).len(), 3);
    }

    #[test]
    fn a_listed_circle_that_is_gone_is_found() {
        let files = &["a/one.rs", "a/two.rs", "a/three.rs"];
        let odd = circle().odd_circles(&[Circle { files, why: "old" }]);
        assert_eq!(odd, ["listed, but gone: a/three.rs (old)"]);
    }

    fn layers(uses: [&'static [&'static str]; 3]) -> Vec<String> {
        let found = graph(&[
            ("lib.rs", "mod low; mod high; pub use high::High;"),
            ("low.rs", "pub struct Low;"),
            (
                "high/mod.rs",
                "mod room; mod wall; pub use room::Room as High;",
            ),
            ("high/room/mod.rs", "use crate::low::Low; pub struct Room;"),
            ("high/wall.rs", "use super::High;"),
        ]);
        let [first, second, third] = uses;
        let row = |part, uses| Layer { part, uses };
        let rows = [
            row("lib", &[]),
            row("low", first),
            row("high/room", second),
            row("high", third),
        ];
        found.odd_layers("a", &rows)
    }

    #[test]
    fn a_use_that_no_row_allows_is_found() {
        assert!(layers([&[], &["low"], &["high/room"]]).is_empty());
        let odd = layers([&[], &[], &["high/room"]]);
        assert_eq!(
            odd,
            ["a/high/room/mod.rs uses a/low.rs as crate::low::Low: high/room may not use low"]
        );
    }

    #[test]
    fn rows_that_say_too_much_are_found() {
        let odd = layers([&["high"], &["low"], &["high/room", "low"]]);
        assert_eq!(
            odd,
            [
                "the row low names high, which is not above it",
                "the row high allows low, which it does not use"
            ]
        );
    }
}
