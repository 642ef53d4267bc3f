//! Ranks as threads that start from a seed: what is drawn must be the same in two runs, or on two ranks.
//!
//! Burn's random numbers are the process's, and a draw by another test would change what a seed gives.
//! So every test here holds [`alone`] from its first line; `tests/repository` checks that.

#[path = "../oracle/mod.rs"]
mod oracle;

mod initial_values;
mod isolation;
mod layers;
mod lora;
mod lora_applied;
mod lora_draws;
mod lora_files;
mod precision;
mod qlora;
mod recompute;
mod replicas;
mod saving;
mod shadow;
mod vit_init;
mod weights;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The right to draw: one test at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
