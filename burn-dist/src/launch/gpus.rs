//! What carries collectives between the ranks' GPUs.

use crate::comm::Engine;
use crate::error::Result;
use burn::tensor::Device;
use std::sync::Arc;
use std::time::Duration;

/// An engine over `engine` that knows the way from GPU to GPU, if the device is one and there is
/// such a way; without one, collectives between GPUs go through the host. Collective.
pub(super) fn connect(
    engine: Arc<dyn Engine>,
    _device: &Device,
    _deadline: Duration,
) -> Result<Arc<dyn Engine>> {
    Ok(engine)
}
