//! SLURM's lists of hosts and tasks.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| burn_dist::fuzz::hosts(text));
