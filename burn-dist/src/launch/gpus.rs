//! The choice between NCCL and the host's memory for collectives between GPUs.

#[cfg(feature = "cuda")]
use super::process_variable;
#[cfg(feature = "cuda")]
use super::variable::Environment;
use crate::comm::Engine;
#[cfg(feature = "cuda")]
use crate::comm::Order;
use crate::comm::mesh::LinkShape;
#[cfg(any(feature = "cuda", test))]
use crate::error::Error;
use crate::error::Result;
#[cfg(feature = "cuda")]
use crate::warning::warn;
use burn::tensor::Device;
use std::sync::Arc;
use std::time::Duration;

/// The engine itself: this build knows no NVIDIA GPUs.
#[cfg(not(feature = "cuda"))]
pub(super) fn connect(
    engine: Arc<dyn Engine>,
    _: &Device,
    _: Duration,
    _: Option<LinkShape>,
) -> Result<Arc<dyn Engine>> {
    Ok(engine)
}

/// An engine over `engine` that moves bytes from GPU to GPU with NCCL, if the device is an NVIDIA GPU and
/// NCCL can be used; else collectives go through the memory of the host. Collective.
#[cfg(feature = "cuda")]
pub(super) fn connect(
    engine: Arc<dyn Engine>,
    device: &Device,
    deadline: Duration,
    link: Option<LinkShape>,
) -> Result<Arc<dyn Engine>> {
    use crate::comm::nccl::{Choice, Nccl, Options};
    let Some(ordinal) = ordinal(device).filter(|_| engine.members().len() > 1) else {
        return Ok(engine);
    };
    let env = Environment::new(&process_variable);
    let orders = [("host", Order::Host), ("device", Order::Device)];
    let order = chosen(&env, "BURN_DIST_GPU_ORDER", orders, "host or device")?;
    let transports = [
        ("auto", GpuTransport::Auto),
        ("nccl", GpuTransport::Nccl),
        ("host", GpuTransport::Host),
    ];
    let transport = chosen(
        &env,
        "BURN_DIST_GPU_TRANSPORT",
        transports,
        "auto, nccl or host",
    )?;
    refuse_link(link, transport == GpuTransport::Host)?;
    let options = Options { deadline, order };
    match transport {
        GpuTransport::Host => Ok(engine),
        GpuTransport::Nccl => Ok(Arc::new(Nccl::new(engine, ordinal, options)?)),
        GpuTransport::Auto => Ok(match Nccl::if_everywhere(engine, ordinal, options)? {
            Choice::Nccl(nccl) => Arc::new(nccl),
            Choice::Host { host, reason } => {
                if host.rank() == 0 {
                    let why = match &reason {
                        Error::PeerFailed { peer, cause } => format!("rank {peer}: {cause}"),
                        other => other.to_string(),
                    };
                    warn(format_args!(
                        "collectives between GPUs go through the memory of the host, right but slow: \
                         {why}"
                    ));
                }
                host
            }
        }),
    }
}

/// A link between nodes cannot be had where NCCL may move the bytes.
#[cfg(any(feature = "cuda", test))]
fn refuse_link(link: Option<LinkShape>, through_host: bool) -> Result<()> {
    match link {
        Some(link) if !through_host => {
            let expected = "collectives that go through the host (BURN_DIST_GPU_TRANSPORT=host), as NCCL's \
                            connections are not this library's to shape";
            let found = format!("{link}, and NVIDIA GPUs that may use NCCL");
            Err(Error::config("link", expected, found))
        }
        _ => Ok(()),
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

/// How bytes get from GPU to GPU.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GpuTransport {
    Auto,
    Nccl,
    Host,
}

/// What a variable chooses by name; where it is not set, the first.
#[cfg(feature = "cuda")]
fn chosen<T: Copy, const N: usize>(
    env: &Environment<'_>,
    name: &'static str,
    choices: [(&str, T); N],
    expected: &str,
) -> Result<T> {
    let Some(variable) = env.variable(name) else {
        return Ok(choices[0].1);
    };
    let found = choices.iter().find(|(name, _)| *name == variable.value);
    found
        .map(|(_, choice)| *choice)
        .ok_or_else(|| variable.wrong(expected))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_refused_where_nccl_may_move_the_bytes() {
        let link = "1gbit,5ms".parse().ok();
        assert!(refuse_link(None, false).is_ok() && refuse_link(link, true).is_ok());
        let error = refuse_link(link, false).unwrap_err().to_string();
        let words = ["link", "BURN_DIST_GPU_TRANSPORT=host", "1gbit,5ms"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}
