//! The NVIDIA GPUs of the host, by NVML.

use super::sample::GpuSample;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// The library of the driver, opened, and how many GPUs it has.
#[derive(Debug)]
pub(crate) struct Gpus {
    nvml: Nvml,
    count: u32,
    /// Whether a GPU that does not answer was warned of.
    warned: bool,
}

impl Gpus {
    /// Opens the library; `None` where there is none or it has no GPU.
    pub(crate) fn open() -> Option<Self> {
        let opened = Nvml::init().and_then(|nvml| Ok((nvml.device_count()?, nvml)));
        match opened {
            Ok((count, nvml)) => Some(Self {
                nvml,
                count,
                warned: false,
            }),
            Err(NvmlError::LibloadingError(_)) => {
                log::debug!("GPUs are not sampled: there is no NVML");
                None
            }
            Err(error) => {
                log::warn!("GPUs are not sampled: NVML is there, but says: {error}");
                None
            }
        }
    }

    /// One sample of each GPU that answers.
    pub(crate) fn sample(&mut self) -> Vec<GpuSample> {
        let mut samples = Vec::new();
        for gpu in 0..self.count {
            match self.nvml.device_by_index(gpu) {
                Ok(device) => samples.push(GpuSample {
                    gpu,
                    // Not supported by a part of a GPU, nor where a GPU shares the host's memory.
                    gpu_percent: device
                        .utilization_rates()
                        .ok()
                        .map(|rates| rates.gpu.into()),
                    gpu_memory_bytes: device.memory_info().ok().map(|memory| memory.used),
                }),
                Err(_) if self.warned => {}
                Err(error) => {
                    log::warn!("GPU {gpu} is not sampled: NVML says: {error}");
                    self.warned = true;
                }
            }
        }
        samples
    }
}
