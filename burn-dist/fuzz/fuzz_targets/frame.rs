//! A frame between two ranks: its header, and the description of a collective.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| burn_dist::fuzz::frame(bytes));
