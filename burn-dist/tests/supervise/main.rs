//! `burn-dist-run` as a shell sees it, with small shell programs for ranks.
//!
//! Every run has a deadline, and is looked for afterwards: nothing of it may be left.

#![allow(clippy::unwrap_used, clippy::panic)]

mod failures;
mod output;
mod process;
mod signals;
