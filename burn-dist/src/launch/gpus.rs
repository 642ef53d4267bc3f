//! What carries collectives between the ranks' GPUs.

use crate::comm::Engine;
use crate::error::Result;
use burn::tensor::Device;
use std::sync::Arc;
use std::time::Duration;

/// An engine over `engine` that knows the way from GPU to GPU, if the device is one and there is
/// such a way; without one, collectives between GPUs go through the host. Collective.
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
    use std::env::var;
    let Some(ordinal) = ordinal(device).filter(|_| engine.members().len() > 1) else {
        return Ok(engine);
    };
    let way = Way::parse(var("BURN_DIST_GPU_TRANSPORT").ok().as_deref())?;
    let order = order(var("BURN_DIST_GPU_ORDER").ok().as_deref())?;
    let options = Options { deadline, order };
    match way {
        Way::Host => Ok(engine),
        Way::Nccl => Ok(Arc::new(Nccl::new(engine, ordinal, options)?)),
        Way::Auto => Ok(match Nccl::if_everywhere(engine, ordinal, options)? {
            Choice::Nccl(nccl) => Arc::new(nccl),
            Choice::Host { host, reason } => {
                if host.rank() == 0 {
                    log::warn!(
                        "collectives between GPUs go through the memory of the host, right but slow: \
                         {reason}"
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

/// What `BURN_DIST_GPU_TRANSPORT` asks for.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Auto,
    Nccl,
    Host,
}

#[cfg(feature = "cuda")]
impl Way {
    fn parse(text: Option<&str>) -> Result<Self> {
        match text.map(str::trim) {
            None | Some("" | "auto") => Ok(Self::Auto),
            Some("nccl") => Ok(Self::Nccl),
            Some("host") => Ok(Self::Host),
            Some(other) => Err(crate::Error::config(
                "BURN_DIST_GPU_TRANSPORT",
                "auto, nccl or host",
                other,
            )),
        }
    }
}

/// What `BURN_DIST_GPU_ORDER` asks for.
#[cfg(feature = "cuda")]
fn order(text: Option<&str>) -> Result<crate::comm::Order> {
    use crate::comm::Order;
    match text.map(str::trim) {
        None | Some("" | "host") => Ok(Order::Host),
        Some("device") => Ok(Order::Device),
        Some(other) => {
            let expected = "host or device";
            Err(crate::Error::config("BURN_DIST_GPU_ORDER", expected, other))
        }
    }
}
