//! The examples as processes, from the command line, with valid and invalid arguments.
//!
//! Tested is their output: a line per epoch, an accuracy that does not depend on the number of ranks, a run
//! that resumes after a kill, and for every mistake one sentence instead of a backtrace.

mod bert;
mod foreign;
mod gpt;
#[cfg(feature = "images")]
mod images;
mod lora;
mod minimal;
mod optimizer;
mod options;
mod records;
mod run;
mod vit;
mod weights;
