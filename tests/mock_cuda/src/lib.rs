//! CUDA's driver and NCCL without a GPU: the functions that burn-dist calls, over the host's memory.
//!
//! A device pointer is a pointer, a stream is a thread that does one thing after the other, and an event
//! is a point that such a thread passes, so that a missing wait reads memory that is not yet written. A
//! collective waits in its stream for the other ranks, which are other threads of the process.
//! Faults are asked for with `mock_set`, and misuse is written down. The version is 9.99.99, so that
//! it cannot be taken for NCCL.

mod collective;
mod comm;
mod context;
mod driver;
mod knobs;
mod numbers;
mod stream;
