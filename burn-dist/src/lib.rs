//! Fully sharded data parallelism for [Burn](burn).
//!
//! A Burn user has a model, a loop and several devices. With one line more, the same model type,
//! the same loop and the same Burn optimizer train with parameters, gradients and optimizer states
//! spread over ranks:
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::optim::AdamWConfig;
//! use burn::tensor::Distribution;
//! use burn_dist::prelude::*;
//!
//! let losses = Threads::new(2).run(|world| {
//!     let model = LinearConfig::new(8, 1).init(&world.device()); // any Burn module
//!     let mut model = Strategy::fsdp().shard(model, &world)?; // the one line; same type
//!     let mut optim = world.optimizer(AdamWConfig::new().init(), &model)?; // Burn's own, checked
//!
//!     let mut losses = Vec::new();
//!     for step in 0..20 {
//!         // Each rank has its own batch.
//!         let x = world.noise(step).random([16, 8], Distribution::Default, &world.device(), 0);
//!         let loss = (model.forward(x) - 1.0).powi_scalar(2).mean();
//!         losses.push(loss.clone().into_scalar::<f32>());
//!         let grads = world.backward(loss, &model)?; // averaged over ranks, sharded
//!         let clipped = grads.clip_norm(1.0)?; // by the true global norm
//!         model = optim.step(0.05, model, clipped.grads); // Burn's own step, on shards
//!     }
//!     Ok(losses)
//! })?;
//! assert!(losses.iter().all(|rank| rank[19] < rank[0]));
//! # Ok::<(), burn_dist::Error>(())
//! ```
//!
//! [`Strategy`] is a value: `ddp`, `zero1`, `zero2`, `fsdp` and `hybrid` are rows of one table over
//! one engine. [`Strategy::plan`] says what a row implies for a model, without running anything.
//!
//! # How it works
//!
//! - **Units.** The parameters of a transformer block are gathered together: they form a *unit*.
//!   What no unit claims is the *root*. A model marks the boundary with one call, [`unit()`].
//! - **Layout.** A unit's parameters lie back to back in one flat buffer, sharded evenly over the
//!   ranks. Gathering gives the buffer back; parameters are views into it ([`layout`]).
//! - **Shards.** A sharded `Param` stores this rank's shard, and `param.val()` yields the gathered
//!   weight, so unmodified layers work. Gathering is an operation on the autodiff tape whose
//!   backward reduces the gradient over ranks, and which the tape can repeat: after a unit's forward
//!   the weight is gone, and backward gathers it again. The engine's own page tells how ([`shard`]).
//!   [`Strategy::recompute`] does the same to activations.
//! - **Collectives.** Ranks compare what they are about to do before a byte moves, and no wait is
//!   without a deadline: a program that differs between ranks is an error that names the rank
//!   ([`comm`]).
//! - **GPUs.** The same engine over a GPU's memory, with the feature `cuda` or `wgpu`
//!   ([`launch::DeviceKind`]); between NVIDIA's, NCCL moves the bytes.
//!
//! # Where things are
//!
//! Arrows point down only; a test checks it.
//!
//! | | |
//! |---|---|
//! | [`launch`](mod@launch) | ranks as threads or processes, by flags and environment: [`launch()`](launch()) |
//! | [`World`] | what a rank knows; `sum`, `broadcast`, `chief`; `backward`, `optimizer`, `save`, `load`, `full`, `export`, `shadow` |
//! | [`Strategy`], [`Plan`] | which state is sharded, and what follows from it |
//! | [`LoraConfig`] | low-rank adapters beside frozen shards, for [`Strategy::lora`] |
//! | [`Precision`], [`GradScaler`] | types of gathers, reductions and outputs; loss scaling for f16 |
//! | [`Shadow`] | one plain device beside the sharded run, for [`World::shadow`] |
//! | [`Noise`] | random numbers and dropout that come out the same again |
//! | [`nn`] | operations in one pass, for CPUs (feature `nn`, on by default) |
//! | [`optim`] | groups of parameters, decays of the rate; optimizers in one pass |
//! | [`shard`] | the engine |
//! | [`weights`] | from and to Hugging Face's files, a rank its own shards |
//! | [`data`], [`training`] | sampler and loader; the loop's steps, learning rate, best score |
//! | [`telemetry`] | where time and memory go |
//! | [`layout`], [`comm`] | who owns which element; who sends what. They do not know each other |
//! | [`rendezvous`] | where processes meet, and learn of each other's end |

mod agreement;
pub mod checkpoint;
pub mod comm;
pub mod data;
mod draws;
mod error;
mod file_type;
mod finite;
mod foreign_error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod host;
pub mod launch;
pub mod layout;
mod lock;
mod lora;
#[cfg(feature = "nn")]
pub mod nn;
mod noise;
mod numbers;
pub mod optim;
mod pattern;
mod plan;
mod precision;
pub mod prelude;
mod quantization;
mod reduction;
pub mod rendezvous;
mod scaler;
pub mod shard;
mod stop;
mod strategy;
pub mod telemetry;
mod trace;
pub mod training;
mod unwind;
mod values;
mod warning;
pub mod weights;
mod world;

/// The features of this crate that the program was built with.
///
/// ```
/// assert_eq!(burn_dist::features().contains(&"nccl"), cfg!(feature = "nccl"));
/// ```
pub fn features() -> Vec<&'static str> {
    let all = [
        ("cli", cfg!(feature = "cli")),
        ("nn", cfg!(feature = "nn")),
        ("mpi", cfg!(feature = "mpi")),
        ("nccl", cfg!(feature = "nccl")),
        ("cuda", cfg!(feature = "cuda")),
        ("cuda-nvrtc", cfg!(feature = "cuda-nvrtc")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("fusion", cfg!(feature = "fusion")),
        ("object-store", cfg!(feature = "object-store")),
        ("s3", cfg!(feature = "s3")),
        ("gs", cfg!(feature = "gs")),
        ("az", cfg!(feature = "az")),
        ("tracing", cfg!(feature = "tracing")),
    ];
    let on = all.into_iter().filter(|(_, on)| *on);
    on.map(|(name, _)| name).collect()
}

pub use error::{CallLabel, Error, Result};
pub use host::name as host_name;
pub use launch::launch;
pub use lora::LoraConfig;
pub use noise::Noise;
pub use numbers::{Numbers, Reducible};
pub use plan::{Memory, Plan, Traffic};
pub use precision::Precision;
pub use scaler::GradScaler;
pub use shard::{
    Accumulation, Activations, Clipped, Destination, MapActivations, Shadow, Shadowed,
    ShardedGradients, Stepper, Summary, TensorSummary, unit,
};
pub use strategy::Strategy;
pub use world::World;

/// The programs of a page of the repository.
#[cfg(doctest)]
#[doc = include_str!("../../docs/from_pytorch.md")]
struct FromPyTorch;
