//! A stream of rendezvous messages.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| burn_dist::fuzz::messages(stream));
