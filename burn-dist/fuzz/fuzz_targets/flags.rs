//! A command line, and below it variables, a line `NAME=value` each.

#![no_main]

use burn_dist::launch::{Flags, Role};
use clap::Parser;
use libfuzzer_sys::fuzz_target;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    flags: Flags,
}

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let words = lines.next().unwrap_or_default().split_whitespace();
    let Ok(program) = Program::try_parse_from(std::iter::once("program").chain(words)) else {
        return;
    };
    let set: Vec<_> = lines.filter_map(|line| line.split_once('=')).collect();
    let value = |name: &str| {
        let found = set.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    match Role::find(&program.flags, value) {
        Ok(Role::Rank(found)) => burn_dist::fuzz::check(&found),
        Ok(Role::Launch(node)) => {
            assert!(node.node_rank < node.nodes && node.ranks > 0);
            assert!(!node.master_addr.is_empty());
        }
        Ok(Role::Alone) | Err(_) => {}
    }
});
