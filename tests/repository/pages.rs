//! The ways through the code in docs/architecture.md name files and symbols that exist.

use crate::readme::read;

/// Everything between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether `code` defines an item of this name.
fn defines(code: &str, name: &str) -> bool {
    let kinds = ["fn", "struct", "enum", "trait", "type", "static"];
    kinds.iter().any(|kind| {
        let item = format!("{kind} {name}");
        code.match_indices(&item).any(|(at, _)| {
            let next = code[at + item.len()..].chars().next();
            next.is_none_or(|c| !c.is_alphanumeric() && c != '_')
        })
    })
}

/// File and symbols of each row of a table whose second column is a file.
fn rows(page: &str) -> Vec<(&str, Vec<&str>)> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    rows.filter_map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        let [_, file, symbols] = cells.as_slice() else {
            return None;
        };
        let [file] = quoted(file)[..] else {
            return None;
        };
        file.ends_with(".rs").then(|| (file, quoted(symbols)))
    })
    .collect()
}

#[test]
fn architecture_md_names_existing_files_and_symbols() {
    let page = read("docs/architecture.md");
    let rows = rows(&page);
    assert!(rows.len() > 40, "{} rows", rows.len());
    for (file, symbols) in rows {
        let code = read(file);
        assert!(!symbols.is_empty(), "{file} without a symbol");
        for symbol in symbols {
            assert!(defines(&code, symbol), "{file} defines no {symbol}");
        }
    }
}

#[test]
fn a_definition_is_told_from_a_mention() {
    let code = "fn send_all() {}\nstruct Ring;\nuse x::Link;";
    assert!(defines(code, "send_all") && defines(code, "Ring"));
    assert!(!defines(code, "send") && !defines(code, "Link"));
}

#[test]
fn the_first_program_of_the_readme_is_an_example() {
    let readme = read("README.md");
    let program = readme.split("```rust\n").nth(1).unwrap_or_default();
    let program = program.split("```").next().unwrap_or_default();
    let example = read("examples/minimal.rs");
    assert!(
        program.len() > 500 && example.ends_with(program),
        "{program}"
    );
}
