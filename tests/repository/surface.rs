//! What users see: public names, the programs' flags, and variables of the environment.
//!
//! All of it stands in `tests/surface.txt`, so that a change of it is seen in a change of that file.

use crate::architecture::sources;
use crate::crates::{Crate, Definition, Files, Module, Target, attributes};
use crate::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use syn::{Attribute, ImplItem, Item, Meta, TraitItem, Visibility};

/// Rewrites the file instead of comparing with it.
const ACCEPT: &str = "BURN_DIST_ACCEPT_SURFACE";

/// How to do that; the programs must be those of this source.
const HOW: &str = "cargo build --release --examples --bins && \
    BURN_DIST_ACCEPT_SURFACE=1 cargo test --release --test repository surface";

/// The name of a crate for its users, and its root.
const CRATES: [(&str, &str); 5] = [
    ("burn_dist", "burn-dist/src/lib.rs"),
    ("burn_dist_nn", "burn-dist/nn/src/lib.rs"),
    ("burn_dist_log", "burn-dist/log/src/lib.rs"),
    ("burn_dist_train", "burn-dist/train/src/lib.rs"),
    ("burn_dist_models", "models/src/lib.rs"),
];

/// Names of a type's or a trait's own, with their kinds.
type Members = BTreeMap<Definition, BTreeSet<(String, &'static str)>>;

struct Surface<'a> {
    krate: &'a Crate,
    members: Members,
    lines: BTreeSet<String>,
    /// Modules that are being listed, so that an export of a parent ends.
    open: Vec<Vec<String>>,
}

impl Surface<'_> {
    fn module(&mut self, at: &[String], shown: &str) {
        if self.open.iter().any(|open| open == at) {
            return;
        }
        self.open.push(at.to_vec());
        let krate = self.krate;
        let module = &krate.modules[at];
        for (name, item) in &module.items {
            if !is_public(visibility(item)) || is_hidden(attributes(item)) {
                continue;
            }
            if let Item::Mod(child) = item {
                let name = child.ident.to_string();
                let shown = format!("{shown}::{name}");
                self.lines.insert(format!("{shown} mod"));
                self.module(&[at, &[name]].concat(), &shown);
            } else if !name.is_empty() {
                self.item(&(at.to_vec(), name.clone()), &format!("{shown}::{name}"));
            }
        }
        for import in module.imports.iter().filter(|i| is_public(&i.visibility)) {
            let target = krate.resolve(at, &import.path);
            let name = import.name.as_deref();
            match (target, name) {
                (Some(Target::Item(item)), Some(name)) => {
                    self.item(&item, &format!("{shown}::{name}"));
                }
                (Some(Target::Module(other)), Some(name)) => {
                    let shown = format!("{shown}::{name}");
                    self.lines.insert(format!("{shown} mod"));
                    self.module(&other, &shown);
                }
                (Some(Target::Module(other)), None) => self.module(&other, shown),
                (target, name) => {
                    let name = name.unwrap_or("*");
                    let from = import.path.join("::");
                    assert!(!matches!(target, Some(Target::Item(_))), "{from}::*");
                    self.lines.insert(format!("{shown}::{name} of {from}"));
                }
            }
        }
        self.open.pop();
    }

    fn item(&mut self, definition: &Definition, shown: &str) {
        let (module, name) = definition;
        let items = &self.krate.modules[module].items;
        let mut items = items.iter().filter(|(other, _)| other == name);
        // What a macro makes has no kind that could be read here.
        let kind = items
            .next()
            .map_or("item of a macro", |(_, item)| kind(item));
        self.lines.insert(format!("{shown} {kind}"));
        for (member, kind) in self.members.get(definition).into_iter().flatten() {
            self.lines.insert(format!("{shown}::{member} {kind}"));
        }
    }
}

/// The public names of a crate.
fn names(name: &str, krate: &Crate) -> BTreeSet<String> {
    let mut members = Members::new();
    for (path, module) in &krate.modules {
        own_members(path, module, &mut members);
        for (_, item) in &module.items {
            inherent(krate, path, item, &mut members);
        }
    }
    let mut surface = Surface {
        krate,
        members,
        lines: BTreeSet::new(),
        open: Vec::new(),
    };
    surface.module(&[], name);
    surface.lines
}

/// Public fields, variants, and what a trait consists of.
fn own_members(path: &[String], module: &Module, members: &mut Members) {
    for (name, item) in &module.items {
        let found = members.entry((path.to_vec(), name.clone())).or_default();
        match item {
            Item::Enum(item) => {
                found.extend(
                    item.variants
                        .iter()
                        .map(|v| (v.ident.to_string(), "variant")),
                );
            }
            Item::Struct(item) => {
                let fields = item.fields.iter().filter(|field| is_public(&field.vis));
                let names = fields.filter_map(|field| field.ident.as_ref());
                found.extend(names.map(|name| (name.to_string(), "field")));
            }
            Item::Trait(item) => found.extend(item.items.iter().filter_map(|item| match item {
                TraitItem::Fn(f) => Some((f.sig.ident.to_string(), "fn")),
                TraitItem::Const(c) => Some((c.ident.to_string(), "const")),
                TraitItem::Type(t) => Some((t.ident.to_string(), "type")),
                _ => None,
            })),
            _ => {}
        }
    }
}

/// Public functions and constants of `impl Type`, which may stand in any module.
fn inherent(krate: &Crate, path: &[String], item: &Item, members: &mut Members) {
    let Item::Impl(block) = item else {
        return;
    };
    let syn::Type::Path(target) = &*block.self_ty else {
        return;
    };
    if block.trait_.is_some() {
        return;
    }
    let names = target.path.segments.iter().map(|s| s.ident.to_string());
    let names: Vec<_> = names.collect();
    let Some(Target::Item(definition)) = krate.resolve(path, &names) else {
        return;
    };
    let found = members.entry(definition).or_default();
    for item in &block.items {
        match item {
            ImplItem::Fn(f) if is_public(&f.vis) && !is_hidden(&f.attrs) => {
                found.insert((f.sig.ident.to_string(), "fn"));
            }
            ImplItem::Const(c) if is_public(&c.vis) && !is_hidden(&c.attrs) => {
                found.insert((c.ident.to_string(), "const"));
            }
            _ => {}
        }
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Whether the documentation leaves it out, or only fuzzing compiles it.
fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => {
            let of = list.tokens.to_string();
            (list.path.is_ident("doc") && of == "hidden")
                || (list.path.is_ident("cfg") && of == "fuzzing")
        }
        _ => false,
    })
}

fn visibility(item: &Item) -> &Visibility {
    match item {
        Item::Const(i) => &i.vis,
        Item::Enum(i) => &i.vis,
        Item::Fn(i) => &i.vis,
        Item::Mod(i) => &i.vis,
        Item::Static(i) => &i.vis,
        Item::Struct(i) => &i.vis,
        Item::Trait(i) => &i.vis,
        Item::Type(i) => &i.vis,
        Item::Union(i) => &i.vis,
        _ => &Visibility::Inherited,
    }
}

fn kind(item: &Item) -> &'static str {
    match item {
        Item::Const(_) => "const",
        Item::Enum(_) => "enum",
        Item::Fn(_) => "fn",
        Item::Macro(_) => "macro",
        Item::Static(_) => "static",
        Item::Struct(_) => "struct",
        Item::Trait(_) => "trait",
        Item::Type(_) => "type",
        Item::Union(_) => "union",
        _ => "item",
    }
}

/// The flags that a program shows, each as it is written there.
fn flags(program: &str, binary: &Path, words: &[&str]) -> BTreeSet<String> {
    let help = Command::new(binary)
        .args(words)
        .arg("--help")
        .env_clear()
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; `cargo test` builds it", binary.display()));
    assert!(help.status.success(), "{program}: {}", help.status);
    let help = String::from_utf8(help.stdout).unwrap();
    let lines = help.lines().map(str::trim);
    let lines = lines
        .filter(|line| line.starts_with("--") || line.starts_with('-') && line.contains(", --"));
    // A description may stand behind two spaces.
    let flags = lines.filter_map(|line| line.split("  ").next());
    let found: BTreeSet<_> = flags.map(|flag| format!("{program} {flag}")).collect();
    assert!(!found.is_empty(), "{program} shows no flags:\n{help}");
    found
}

/// Every `BURN_DIST_...` in code that is not for tests.
fn variables() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources() {
        if !source.is_library() && !source.path.starts_with("examples/") {
            continue;
        }
        for (_, line) in source.code() {
            for (at, start) in line.match_indices("BURN_DIST_") {
                let is_name = |c: &char| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_';
                let name: String = line[at + start.len()..]
                    .chars()
                    .take_while(is_name)
                    .collect();
                if !name.is_empty() {
                    found.insert(format!("{start}{name}"));
                }
            }
        }
    }
    found
}

fn surface() -> String {
    let files: Files = sources().into_iter().map(|s| (s.path, s.text)).collect();
    let mut text = format!("What users see. A test compares; to accept a change:\n{HOW}\n");
    let mut part = |title: &str, lines: BTreeSet<String>| {
        text.push_str(&format!("\n{title}\n\n"));
        lines
            .iter()
            .for_each(|line| text.push_str(&format!("{line}\n")));
    };
    for (name, root) in CRATES {
        part(
            &format!("# {name}"),
            names(name, &Crate::read(&files, root)),
        );
    }
    // The folder of all programs is that above the folder of this one.
    let own = std::env::current_exe().unwrap();
    let folder = own.ancestors().nth(2).unwrap();
    let examples = files
        .keys()
        .filter_map(|file| file.strip_prefix("examples/"));
    let examples = examples.filter_map(|file| file.strip_suffix(".rs"));
    // `minimal` takes a number and has no flags.
    let examples = examples.filter(|name| !name.contains('/') && *name != "minimal");
    for program in examples {
        let binary: PathBuf = folder.join("examples").join(program);
        part(&format!("# {program}"), flags(program, &binary, &[]));
    }
    for program in ["burn-dist-run", "burn-dist-save"] {
        let binary = folder.join(program);
        let mut shown = flags(program, &binary, &[]);
        if program == "burn-dist-save" {
            for command in ["list", "show", "verify", "export", "import", "diff"] {
                let name = format!("{program} {command}");
                shown.extend(flags(&name, &binary, &[command]));
            }
        }
        part(&format!("# {program}"), shown);
    }
    part("# Environment", variables());
    text
}

#[test]
fn the_surface_equals_its_golden_list() {
    let file = root().join("tests/surface.txt");
    let found = surface();
    if std::env::var_os(ACCEPT).is_some() {
        std::fs::write(&file, found).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    let lines = |text: &str| -> BTreeSet<String> { text.lines().map(String::from).collect() };
    let (found_lines, wanted_lines) = (lines(&found), lines(&wanted));
    let added = found_lines
        .difference(&wanted_lines)
        .map(|line| format!("+ {line}\n"));
    let removed = wanted_lines
        .difference(&found_lines)
        .map(|line| format!("- {line}\n"));
    let change: String = removed.chain(added).collect();
    assert!(
        found == wanted,
        "the surface has changed:\n{change}If that is wanted, say in RELEASES.md what it means for users, \
         and have tests/surface.txt rewritten:\n{HOW}"
    );
}

#[test]
fn names_are_listed_as_users_reach_them() {
    let files = [
        ("lib.rs", "mod a; pub mod b; pub use a::{One as Uno, f};"),
        (
            "a.rs",
            "pub struct One { pub x: u8, y: u8 } pub fn f() {} pub fn hidden() {}
             impl One { pub fn new() {} fn own() {} } impl Clone for One { fn clone() {} }",
        ),
        (
            "b.rs",
            "pub enum E { A, B } pub(crate) struct S; pub trait T { fn t(); const C: u8; }
             impl crate::a::One { pub const LAST: u8 = 1; } #[doc(hidden)] pub fn g() {}
             #[cfg(test)] pub fn h() {} pub use std::fmt; mod c { pub struct Deep; } pub use c::*;",
        ),
    ];
    let files = files.map(|(path, text)| (format!("x/{path}"), text.to_string()));
    let found = names("x", &Crate::read(&files.into(), "x/lib.rs"));
    let wanted = [
        "x::Uno struct",
        "x::Uno::LAST const",
        "x::Uno::new fn",
        "x::Uno::x field",
        "x::b mod",
        "x::b::Deep struct",
        "x::b::E enum",
        "x::b::E::A variant",
        "x::b::E::B variant",
        "x::b::T trait",
        "x::b::T::C const",
        "x::b::T::t fn",
        "x::b::fmt of std::fmt",
        "x::f fn",
    ];
    assert_eq!(found, wanted.map(String::from).into());
}
