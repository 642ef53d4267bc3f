//! Fused operations and one-pass optimizers for [Burn](burn) on CPUs.
//!
//! Burn's Flex backend multiplies matrices as fast as PyTorch does; what lies between the products (a GELU, a
//! layer norm, a softmax, an optimizer) it composes of many passes over memory. Here each of them is one pass,
//! compiled for AVX-512, AVX2 and the baseline, chosen at run time:
//!
//! - [`functional`]: operations on tensors with hand-written gradients, on Burn's autodiff tape;
//! - [`optim`]: AdamW, Adam, Lion and SGD, whose records are Burn's.
//!
//! `BURN_DIST_NN_MAX_ISA=avx2` (or `baseline`, `avx512`) names the best instructions that
//! these loops use; gemm, which multiplies matrices, chooses its own.
//!
//! They compute f32 on [`Device::flex`](burn::tensor::Device::flex). Every other type and device gets Burn's own
//! composition from the same function. The crate knows nothing of ranks; burn-dist builds on it, and any other
//! Burn program may.

pub mod functional;
pub mod optim;

// What `derive(RecordState)` names at the root of a crate.
use burn::optim::{RecordState, StateSink, StateSource, join_path};

mod flex;
mod matmul;
mod rows;
mod simd;
