//! Saves as files of other programs and back: in this process, and by `burn-dist-save` from its command line.
//!
//! A program of its own, because Cargo tells the place of `burn-dist-save` to tests of its package alone. All is f64, as in
//! the fixtures, which `scripts/make_torch_state.py` makes: Burn loads the states of an optimizer in the type of the
//! default device, which is set for the whole process.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod command;
mod faults;
mod fixture;
mod tool;
mod torch_state;
