//! Any set of variables, a line `NAME=value` each.

#![no_main]

use burn_dist::launch::detect;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let set: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let value = |name: &str| {
        let found = set.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    if let Ok(Some(found)) = detect(value) {
        burn_dist::fuzz::check(&found);
        assert!(!found.to_string().is_empty());
    }
});
