//! What carries collectives between the ranks' GPUs.

#[cfg(feature = "cuda")]
use super::variable::Environment;
use crate::comm::Engine;
#[cfg(feature = "cuda")]
use crate::comm::Order;
#[cfg(feature = "cuda")]
use crate::error::Error;
use crate::error::Result;
use burn::tensor::Device;
use std::sync::Arc;
use std::time::Duration;

/// The engine itself: this build knows no NVIDIA GPUs.
#[cfg(not(feature = "cuda"))]
pub(super) fn connect(engine: Arc<dyn Engine>, _: &Device, _: Duration) -> Result<Arc<dyn Engine>> {
    Ok(engine)
}

/// An engine over `engine` that knows the way from GPU to GPU, if the device is one and there is
/// such a way; without one, collectives between GPUs go through the host. Collective.
#[cfg(feature = "cuda")]
pub(super) fn connect(
    engine: Arc<dyn Engine>,
    device: &Device,
    deadline: Duration,
) -> Result<Arc<dyn Engine>> {
    use crate::comm::nccl::{Choice, Nccl, Options};
    let Some(ordinal) = ordinal(device).filter(|_| engine.members().len() > 1) else {
        return Ok(engine);
    };
    let lookup = |name: &str| std::env::var(name).ok();
    let env = Environment::new(&lookup);
    let order = order(&env)?;
    let options = Options { deadline, order };
    match Way::asked(&env)? {
        Way::Host => Ok(engine),
        Way::Nccl => Ok(Arc::new(Nccl::new(engine, ordinal, options)?)),
        Way::Auto => Ok(match Nccl::if_everywhere(engine, ordinal, options)? {
            Choice::Nccl(nccl) => Arc::new(nccl),
            Choice::Host { host, reason } => {
                if host.rank() == 0 {
                    let why = match &reason {
                        Error::PeerFailed { peer, cause } => format!("rank {peer}: {cause}"),
                        other => other.to_string(),
                    };
                    log::warn!(
                        "collectives between GPUs go through the memory of the host, right but slow: \
                         {why}"
                    );
                }
                host
            }
        }),
    }
}

/// The number of a CUDA device among those of this process.
#[cfg(feature = "cuda")]
fn ordinal(device: &Device) -> Option<usize> {
    use burn::backend::DispatchDevice;
    use burn_cubecl::CubeDevice;
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Cuda(cuda)) => Some(cuda.index),
        _ => None,
    }
}

/// What carries collectives between GPUs.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Auto,
    Nccl,
    Host,
}

#[cfg(feature = "cuda")]
impl Way {
    fn asked(env: &Environment<'_>) -> Result<Self> {
        let Some(variable) = env.variable("BURN_DIST_GPU_TRANSPORT") else {
            return Ok(Self::Auto);
        };
        match variable.value.as_str() {
            "auto" => Ok(Self::Auto),
            "nccl" => Ok(Self::Nccl),
            "host" => Ok(Self::Host),
            _ => Err(variable.wrong("auto, nccl or host")),
        }
    }
}

#[cfg(feature = "cuda")]
fn order(env: &Environment<'_>) -> Result<Order> {
    let Some(variable) = env.variable("BURN_DIST_GPU_ORDER") else {
        return Ok(Order::Host);
    };
    match variable.value.as_str() {
        "host" => Ok(Order::Host),
        "device" => Ok(Order::Device),
        _ => Err(variable.wrong("host or device")),
    }
}
