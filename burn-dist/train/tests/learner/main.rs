//! Burn's `Learner` over ranks, compared with Burn's own on one device.
//!
//! A program of its own because it needs burn-train, which nothing else here may.

#![allow(clippy::unwrap_used)]

mod equality;
mod failures;
mod options;
mod processes;
mod program;
mod saves;
