//! What a process and its host's GPUs are busy with, second by second: the lines of `utilisation.csv`.

#[cfg(feature = "nvml")]
mod gpus;
#[cfg(feature = "utilisation")]
mod meter;
mod sample;
#[cfg(feature = "utilisation")]
mod sampler;
#[cfg(test)]
mod tests;

pub use sample::{GpuSample, Sample};
#[cfg(feature = "utilisation")]
pub use sampler::Sampler;
