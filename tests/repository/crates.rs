//! A crate as its files declare it: modules, what they define, import and export again.
//!
//! Names are resolved as the compiler does, as far as imports go: through `use` with its groups, renames
//! and globs, `crate`, `self` and `super`, and every `pub use` back to the file that defines the item. Method calls are
//! beyond it, and so is what a macro makes; a name that is not found in a module is taken for one of these.
//! Code for tests alone is left out, features are not: all of them count.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree, Visibility};

/// Files by their path in the repository.
pub(crate) type Files = BTreeMap<String, String>;

/// The names that lead to a module or an item from the root of its crate.
pub(crate) type Path = Vec<String>;

/// An item: its module, and its name there.
pub(crate) type Definition = (Path, String);

/// One `use` of one name.
#[derive(Clone)]
pub(crate) struct Import {
    pub(crate) path: Path,
    /// The name it has here; `None` for all names of a module.
    pub(crate) name: Option<String>,
    pub(crate) visibility: Visibility,
}

impl Import {
    /// Whether others may take it from here.
    pub(crate) fn is_export(&self) -> bool {
        !matches!(self.visibility, Visibility::Inherited)
    }
}

/// A module, in a file or within one.
#[derive(Default)]
pub(crate) struct Module {
    pub(crate) file: String,
    pub(crate) children: BTreeSet<String>,
    /// Names of items, and the items, without those for tests. What defines no item has no name.
    pub(crate) items: Vec<(String, Item)>,
    pub(crate) imports: Vec<Import>,
    /// Every path in the code, but not those of `use`.
    pub(crate) mentions: BTreeSet<Path>,
}

impl Module {
    fn defines(&self, name: &str) -> bool {
        self.items.iter().any(|(item, _)| item == name)
    }
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Module(Path),
    Item(Definition),
    /// Another crate's: the path from there.
    Foreign(Path),
}

/// All modules of one crate.
pub(crate) struct Crate {
    pub(crate) modules: BTreeMap<Path, Module>,
}

impl Crate {
    /// Reads the crate whose root is this file, and every file that it declares.
    pub(crate) fn read(files: &Files, root: &str) -> Self {
        let mut modules = BTreeMap::new();
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
        read_file(files, root, folder, &[], &mut modules);
        Self { modules }
    }

    /// What a path in the code of a module leads to, if that is an item or a module of some crate.
    pub(crate) fn resolve(&self, module: &[String], path: &[String]) -> Option<Target> {
        self.follow(module, path, 0)
    }

    fn follow(&self, module: &[String], path: &[String], depth: usize) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        // An export that leads to itself.
        if depth > 32 {
            return None;
        }
        match first.as_str() {
            "crate" => self.descend(&[], rest, depth),
            "self" => self.descend(module, rest, depth),
            "super" => self.descend(module.split_last()?.1, rest, depth),
            _ if self.names(module, first, depth) => self.descend(module, path, depth),
            // A type parameter, a local variable, the prelude.
            _ if rest.is_empty() => None,
            _ => Some(Target::Foreign(path.to_vec())),
        }
    }

    /// Whether a module has this name, from whatever source.
    fn names(&self, module: &[String], name: &str, depth: usize) -> bool {
        let Some(here) = self.modules.get(module) else {
            return false;
        };
        here.children.contains(name)
            || here.defines(name)
            || here.imports.iter().any(|i| i.name.as_deref() == Some(name))
            || self
                .through_globs(module, &[name.to_string()], depth)
                .is_some()
    }

    /// Follows a path from a module downwards, and wherever its exports lead.
    fn descend(&self, module: &[String], path: &[String], depth: usize) -> Option<Target> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Target::Module(module.to_vec()));
        };
        let here = self.modules.get(module)?;
        if name == "self" || name == "super" {
            return self.follow(module, path, depth + 1);
        }
        let mut imports = here.imports.iter();
        let import = imports.find(|i| i.name.as_ref() == Some(name));
        // At the end of a path an item that is called as a module is, further ahead the module.
        let is_item = rest.is_empty() && (here.defines(name) || import.is_some());
        if here.children.contains(name) && !is_item {
            let child = [module, std::slice::from_ref(name)].concat();
            return self.descend(&child, rest, depth);
        }
        if here.defines(name) {
            return Some(Target::Item((module.to_vec(), name.clone())));
        }
        if let Some(import) = import {
            // An import never means itself, so that its first name is a child's or another crate's.
            let first = import.path.first()?;
            let is_own = import.name.as_ref() == Some(first) && !here.children.contains(first);
            if is_own {
                return Some(Target::Foreign([&import.path, rest].concat()));
            }
            let whole = [import.path.as_slice(), rest].concat();
            return self.follow(module, &whole, depth + 1);
        }
        if let Some(found) = self.through_globs(module, path, depth) {
            return Some(found);
        }
        Some(Target::Item((module.to_vec(), name.clone())))
    }

    fn through_globs(&self, module: &[String], path: &[String], depth: usize) -> Option<Target> {
        let here = self.modules.get(module)?;
        let globs = here.imports.iter().filter(|i| i.name.is_none());
        globs
            .into_iter()
            .find_map(|glob| match self.follow(module, &glob.path, depth + 1)? {
                Target::Module(other) if other != module => {
                    let is_named = self.names(&other, &path[0], depth + 1);
                    is_named.then(|| self.descend(&other, path, depth + 1))?
                }
                _ => None,
            })
    }
}

fn read_file(
    files: &Files,
    file: &str,
    folder: &str,
    path: &[String],
    modules: &mut BTreeMap<Path, Module>,
) {
    let text = files.get(file).unwrap_or_else(|| panic!("no {file}"));
    let parsed = syn::parse_file(text).unwrap_or_else(|e| panic!("{file}: {e}"));
    read_module(files, file, folder, path, parsed.items, modules);
}

fn read_module(
    files: &Files,
    file: &str,
    folder: &str,
    path: &[String],
    items: Vec<Item>,
    modules: &mut BTreeMap<Path, Module>,
) {
    let mut module = Module {
        file: file.into(),
        ..Module::default()
    };
    for item in items {
        if is_for_tests(attributes(&item)) {
            continue;
        }
        if let Item::Mod(child) = &item {
            let name = child.ident.to_string();
            let path = [path, std::slice::from_ref(&name)].concat();
            let below = format!("{folder}/{name}");
            match &child.content {
                Some((_, items)) => {
                    read_module(files, file, &below, &path, items.clone(), modules);
                }
                None => {
                    let flat = format!("{below}.rs");
                    let parent = format!("{below}/mod.rs");
                    let file = match path_attribute(&child.attrs) {
                        Some(elsewhere) => beside(file, &elsewhere),
                        None if files.contains_key(&flat) => flat,
                        None => parent,
                    };
                    read_file(files, &file, &below, &path, modules);
                }
            }
            module.children.insert(name);
            module.items.push((String::new(), item));
            continue;
        }
        let mut code = Code(&mut module);
        code.visit_item(&item);
        let name = name(&item).unwrap_or_default();
        module.items.push((name, item));
    }
    modules.insert(path.to_vec(), module);
}

/// The file that `#[path = ".."]` names.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let named = attributes.iter().find(|a| a.path().is_ident("path"))?;
    let Meta::NameValue(pair) = &named.meta else {
        return None;
    };
    let syn::Expr::Lit(literal) = &pair.value else {
        return None;
    };
    match &literal.lit {
        syn::Lit::Str(path) => Some(path.value()),
        _ => None,
    }
}

/// A path relative to the folder of a file.
fn beside(file: &str, path: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Collects what a module's code names.
struct Code<'a>(&'a mut Module);

impl Visit<'_> for Code<'_> {
    fn visit_item(&mut self, item: &Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        flatten(&item.tree, &mut Vec::new(), &mut |path, name| {
            self.0.imports.push(Import {
                path,
                name,
                visibility: item.vis.clone(),
            });
        });
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let names = path.segments.iter().map(|s| s.ident.to_string());
        self.0.mentions.insert(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &syn::Macro) {
        visit::visit_macro(self, mac);
        scan(mac.tokens.clone(), &mut self.0.mentions);
    }

    fn visit_attribute(&mut self, _: &Attribute) {}

    // Who may see an item is no use of it.
    fn visit_visibility(&mut self, _: &Visibility) {}
}

/// Paths of two and more names in what a macro is given.
fn scan(tokens: TokenStream, found: &mut BTreeSet<Path>) {
    let mut path: Path = Vec::new();
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(name) => {
                if colons != 2 {
                    keep(&mut path, found);
                }
                path.push(name.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                keep(&mut path, found);
                colons = 0;
                scan(group.stream(), found);
            }
            _ => {
                keep(&mut path, found);
                colons = 0;
            }
        }
    }
    keep(&mut path, found);
}

fn keep(path: &mut Path, found: &mut BTreeSet<Path>) {
    let path = std::mem::take(path);
    if path.len() > 1 {
        found.insert(path);
    }
}

fn flatten(tree: &UseTree, path: &mut Path, found: &mut impl FnMut(Path, Option<String>)) {
    match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            flatten(&step.tree, path, found);
            path.pop();
        }
        UseTree::Name(name) if name.ident == "self" => found(path.clone(), path.last().cloned()),
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            found(
                [path.as_slice(), std::slice::from_ref(&name)].concat(),
                Some(name),
            );
        }
        UseTree::Rename(rename) => {
            let mut whole = path.clone();
            if rename.ident != "self" {
                whole.push(rename.ident.to_string());
            }
            found(whole, Some(rename.rename.to_string()));
        }
        UseTree::Glob(_) => found(path.clone(), None),
        UseTree::Group(group) => group.items.iter().for_each(|t| flatten(t, path, found)),
    }
}

/// Whether these are of code that only tests are compiled with.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("cfg") => asks_for_test(list.tokens.clone()),
        _ => false,
    })
}

/// `test`, alone or among others, and not within a `not`.
fn asks_for_test(tokens: TokenStream) -> bool {
    let mut is_negated = false;
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(name) => {
            is_negated = name == "not";
            name == "test"
        }
        TokenTree::Group(group) => !is_negated && asks_for_test(group.stream()),
        _ => false,
    })
}

pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Union(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// The name that an item defines.
fn name(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(i) => i.ident.to_string(),
        Item::Enum(i) => i.ident.to_string(),
        Item::Fn(i) => i.sig.ident.to_string(),
        Item::Macro(i) => i.ident.as_ref()?.to_string(),
        Item::Static(i) => i.ident.to_string(),
        Item::Struct(i) => i.ident.to_string(),
        Item::Trait(i) => i.ident.to_string(),
        Item::Type(i) => i.ident.to_string(),
        Item::Union(i) => i.ident.to_string(),
        _ => return None,
    })
}
