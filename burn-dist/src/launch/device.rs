//! What a rank computes on.

use crate::error::{Error, Result};
use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// A kind of device; which one of its host's devices a rank takes follows from its number there.
///
/// ```
/// use burn_dist::launch::DeviceKind;
///
/// let kind: DeviceKind = "cpu".parse()?;
/// assert_eq!(kind.device(0)?, burn::tensor::Device::flex());
/// assert!("tpu".parse::<DeviceKind>().is_err());
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `torch.cuda.set_device(local_rank)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub enum DeviceKind {
    /// The cores of the host, divided among its ranks.
    #[default]
    Cpu,
    /// NVIDIA GPUs; needs the feature `cuda`.
    Cuda,
    /// Whatever Vulkan, Metal or DirectX offer; needs the feature `wgpu`. All ranks of a host share
    /// its default one.
    Wgpu,
}

impl DeviceKind {
    /// The device of the rank with number `local_rank` on its host.
    ///
    /// Where a scheduler shows each rank one GPU alone, that one has number 0 for all of them.
    ///
    /// # Errors
    /// [`Error::Config`] if the build lacks the feature, or the host the device.
    pub fn device(self, local_rank: usize) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda => cuda(local_rank),
            Self::Wgpu => wgpu(),
        }
    }

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(local_rank: usize) -> Result<Device> {
    use burn_cubecl::{CubeDevice, cubecl::device::DeviceUnavailable};
    let found = CubeDevice::cuda(local_rank).or_else(|cause| match cause {
        // One GPU is what each rank sees where a scheduler deals them out.
        DeviceUnavailable::NoSuchDevice { available: 1, .. } => CubeDevice::cuda(0),
        other => Err(other),
    });
    let found = found.map_err(|cause| {
        let expected = format!("an NVIDIA GPU for rank {local_rank} of this host");
        let found = match cause {
            DeviceUnavailable::NoSuchDevice { available: 0, .. } => {
                "none (is the driver installed? does nvidia-smi list a GPU?)".to_string()
            }
            DeviceUnavailable::NoSuchDevice { available, .. } => {
                format!("{available}: start as many ranks as there are GPUs")
            }
            other => other.to_string(),
        };
        Error::config("device cuda", expected, found)
    })?;
    Ok(Device::new(found))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Device> {
    Err(lacking("cuda"))
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Device> {
    use burn_cubecl::CubeDevice;
    let found = CubeDevice::wgpu(Default::default()).map_err(|cause| {
        let expected = "a GPU that Vulkan, Metal or DirectX knows";
        Error::config("device wgpu", expected, cause)
    })?;
    Ok(Device::new(found))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Result<Device> {
    Err(lacking("wgpu"))
}

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
fn lacking(feature: &str) -> Error {
    let expected = format!("a build with the feature {feature}");
    let found = format!("one without; build with --features {feature}");
    Error::config(format!("device {feature}"), expected, found)
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeviceKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Cpu, Self::Cuda, Self::Wgpu];
        let found = all.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| Error::config("device", "cpu, cuda or wgpu", text))
    }
}

/// The devices of ranks: one for all of them, or a kind of which each takes its own.
#[derive(Debug, Clone)]
pub struct Devices(Choice);

#[derive(Debug, Clone)]
enum Choice {
    One(Device),
    Each(DeviceKind),
}

impl Devices {
    /// The device of the rank with number `local_rank` on its host.
    pub(super) fn of(&self, local_rank: usize) -> Result<Device> {
        match &self.0 {
            Choice::One(device) => Ok(device.clone()),
            Choice::Each(kind) => kind.device(local_rank),
        }
    }
}

impl Default for Devices {
    fn default() -> Self {
        DeviceKind::Cpu.into()
    }
}

impl From<Device> for Devices {
    fn from(device: Device) -> Self {
        Self(Choice::One(device))
    }
}

impl From<DeviceKind> for Devices {
    fn from(kind: DeviceKind) -> Self {
        Self(Choice::Each(kind))
    }
}
