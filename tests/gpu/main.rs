//! The engine on a GPU, compared with plain Burn on the CPU.
//!
//! Any GPU that this build knows: `BURN_DIST_TEST_DEVICE` says `cuda` or `wgpu`, and without it the
//! first one found counts. A driver that draws with the CPU is a GPU too, which is how these tests
//! run where there is none. The ranks are threads that share it, which NCCL refuses, so their collectives
//! go through the host; over NCCL `nccl --gpu` trains (`tests/nccl/real.rs`).

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../models/tests/golden/mod.rs"]
mod golden;
#[path = "../oracle/mod.rs"]
mod oracle;
#[path = "../reference/mod.rs"]
mod reference;

mod place;
mod precision;
mod saves;
mod stress;
mod tower;
mod training;
mod transformers;
